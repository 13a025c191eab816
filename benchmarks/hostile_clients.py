"""Clients that mean harm: slow, silent, or with costly uploads.

Each opens a connection, sends what its attack says, and waits for the server to answer or to close. A second later it
begins again, so the attack goes on for as long as `attacking` does.
"""

from __future__ import annotations

import asyncio
import itertools
import multiprocessing
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection
from typing import NamedTuple
from urllib.parse import urlsplit

from service.sockets import raise_open_files_limit

PAUSE_S = 1.0  # of a client between two connections, and between two bytes of a slow one
CONNECT_S = 10.0  # to open all connections
READ_BYTES = 2**16
STATUS = re.compile(rb"HTTP/1\.1 (\d{3}) ")
PROBLEM = re.compile(rb'"type":\s*"/problems/([a-z-]+)"')
LENGTH = re.compile(rb"\r\ncontent-length: (\d+)", re.IGNORECASE)


class Attack(NamedTuple):
    """What many clients do at the same time.

    Attributes:
        requests: what a client sends at once; the clients take turns.
        trickle: what each sends after that, byte by byte, one a second.
    """

    name: str
    clients: int
    requests: Sequence[bytes] = (b"",)
    trickle: bytes = b""


@contextmanager
def attacking(attack: Attack, url: str) -> Iterator[Counter[str]]:
    """The attack, from a process of its own. The context begins when every client has connected, or failed to.

    The counter is filled at the end: the answers by status and first problem, and "closed" for a connection that the
    server ended without one.
    """
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_attack, args=(attack, url, theirs), daemon=True)
    process.start()
    ends: Counter[str] = Counter()
    try:
        ours.recv()
        yield ends
        ours.send(None)
        ends.update(ours.recv())
    finally:
        process.terminate()
        process.join()


def _attack(attack: Attack, url: str, pipe: Connection) -> None:
    raise_open_files_limit()
    parts = urlsplit(url)
    assert parts.hostname is not None
    asyncio.run(_run(attack, parts.hostname, parts.port or 80, pipe))


async def _run(attack: Attack, host: str, port: int, pipe: Connection) -> None:
    ends: Counter[str] = Counter()
    begun = asyncio.Semaphore(0)

    async def client(request: bytes) -> None:
        for turn in itertools.count():
            try:
                reader, writer = await asyncio.open_connection(host, port)
            except OSError:
                ends["not connected"] += 1
                await asyncio.sleep(PAUSE_S)
                continue
            finally:
                if not turn:
                    begun.release()
            sending = asyncio.create_task(_send(writer, request, attack.trickle))
            answer = await _read(reader)
            sending.cancel()
            writer.transport.abort()
            ends[end_of(answer)] += 1
            await asyncio.sleep(PAUSE_S)

    requests = itertools.islice(itertools.cycle(attack.requests), attack.clients)
    clients = [asyncio.create_task(client(request)) for request in requests]
    with suppress(TimeoutError):
        async with asyncio.timeout(CONNECT_S):
            for _ in clients:
                await begun.acquire()
    pipe.send(None)
    await asyncio.to_thread(pipe.recv)
    pipe.send(ends)


async def _send(writer: asyncio.StreamWriter, request: bytes, trickle: bytes) -> None:
    with suppress(OSError):
        writer.write(request)
        for byte in trickle:
            await asyncio.sleep(PAUSE_S)
            writer.write(bytes([byte]))


async def _read(reader: asyncio.StreamReader) -> bytes:
    """Everything until the server closes the connection, or until a response with a length is complete."""
    answer = b""
    with suppress(OSError):
        while data := await reader.read(READ_BYTES):
            answer += data
            head, blank, body = answer.partition(b"\r\n\r\n")
            length = LENGTH.search(head)
            if blank and length and len(body) >= int(length[1]):
                break
    return answer


def end_of(answer: bytes) -> str:
    """The status and the first problem of an answer; "closed" without one."""
    status, problem = STATUS.match(answer), PROBLEM.search(answer)
    if not status:
        return "closed"
    return " ".join(found[1].decode() for found in (status, problem) if found)
