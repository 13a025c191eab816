"""Hostile clients, against a small real server."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest

from benchmarks.hostile_clients import Attack, attacking, end_of
from tests.support.waiting import async_until

PROBLEM = b'{"type": "/problems/request-timeout", "status": 408}'
TIMEOUT = b"HTTP/1.1 408 Request Timeout\r\nContent-Length: %d\r\n\r\n%b" % (len(PROBLEM), PROBLEM)


def attacked(attack: Attack, answer: bytes, after: int) -> tuple[list[bytes], Counter[str]]:
    """What each connection of an attack sends, and how they end. The server answers after so many bytes, and closes.

    The attack ends when every client has come back.
    """
    received: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        number = len(received)
        received.append(b"")
        while len(received[number]) < after and (byte := await reader.read(1)):
            received[number] += byte
        writer.write(answer)
        writer.close()

    async def run() -> Counter[str]:
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        going = attacking(attack, f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/classify")
        ends = await asyncio.to_thread(going.__enter__)
        await async_until(lambda: len(received) >= 2 * attack.clients, 60)
        await asyncio.to_thread(going.__exit__, None, None, None)
        server.close()
        return ends

    ends = asyncio.run(run())
    return received, ends


def test_clients_take_turns_and_come_back_after_their_answers() -> None:
    received, ends = attacked(Attack("two requests", 4, [b"first", b"other"]), TIMEOUT, after=5)
    assert Counter(received[:4]) == {b"first": 2, b"other": 2}
    assert set(ends) == {"408 request-timeout"}
    assert ends["408 request-timeout"] >= 4


def test_slow_clients_send_one_byte_after_the_other() -> None:
    received, ends = attacked(Attack("slow", 2, [b"at once"], trickle=b"abc"), b"", after=9)
    assert received[:2] == [b"at onceab"] * 2
    assert set(ends) == {"closed"}


@pytest.mark.parametrize(
    ("answer", "end"),
    [
        (TIMEOUT, "408 request-timeout"),
        (b'HTTP/1.1 200 OK\r\n\r\n{"images":[{"error":{"type":"/problems/too-many-pixels"}}]}', "200 too-many-pixels"),
        (b'HTTP/1.1 200 OK\r\n\r\n{"images":[{"width":1}]}', "200"),
        (b"", "closed"),
    ],
    ids=["a problem", "a problem of an image", "an answer", "nothing"],
)
def test_an_end_is_the_status_and_the_problem(answer: bytes, end: str) -> None:
    assert end_of(answer) == end
