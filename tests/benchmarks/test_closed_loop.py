"""The closed-loop load, against a small real server."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from multiprocessing.pool import ThreadPool
from typing import Any

import pytest

from benchmarks import closed_loop
from benchmarks.closed_loop import Driven, drive, without_wrk

OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"


class Server:
    """HTTP on 127.0.0.1 for the length of a load; it answers by the number of the request, and remembers them all."""

    def __init__(self, answer: Callable[[int], bytes]) -> None:
        self._answer = answer
        self.requests: list[bytes] = []

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.split(b"content-length: ")[1].split(b"\r\n")[0])
                self.requests.append(head + await reader.readexactly(length))
                if not (answer := self._answer(len(self.requests) - 1)):
                    return
                writer.write(answer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    def loaded(self, load: Callable[[str], Any]) -> Any:
        """What `load` makes of this server's URL, on a thread of its own."""

        async def run() -> Any:
            server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
            found = await asyncio.to_thread(load, f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/classify")
            server.close()
            return found

        return asyncio.run(run())


def test_every_answer_of_the_load_is_counted() -> None:
    server = Server(lambda number: OK)
    found: Driven = server.loaded(lambda url: drive(url, b"jpeg", 3, 0.2))
    assert found.failed == 0
    assert 0 <= len(server.requests) - len(found.latencies) <= 3  # those on their way at the end
    assert server.requests[0].startswith(b"POST /classify HTTP/1.1\r\nhost: 127.0.0.1:")
    assert {request.partition(b"\r\n\r\n")[2] for request in server.requests} == {b"jpeg"}


@pytest.mark.parametrize(
    "answer",
    [b"HTTP/1.1 503 Busy\r\ncontent-length: 0\r\n\r\n", b"no HTTP\r\n\r\n", b""],
    ids=["an error", "garbage", "hanging up"],
)
def test_failures_of_the_load_are_counted_and_not_timed(answer: bytes) -> None:
    server = Server(lambda number: answer if number == 1 else OK)
    found: Driven = server.loaded(lambda url: drive(url, b"jpeg", 2, 0.2))
    assert found.failed == 1
    assert len(found.latencies) < len(server.requests)


def test_the_load_is_shared_among_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    shares = []

    def driven(url: str, jpeg: bytes, connections: int, seconds: float) -> Driven:
        shares.append(connections)
        return Driven([0.1, 0.3], failed=0, elapsed=2.0, cpu=0.5)

    monkeypatch.setattr(closed_loop, "drive", driven)
    monkeypatch.setattr(closed_loop, "usable_cores", lambda: 3)
    with ThreadPool(1) as pool:
        load, cpu = without_wrk(pool, "", b"", 8, 2)
    assert sorted(shares) == [2, 3, 3]
    assert load == (3.0, 100.0, 300.0, 300.0)
    assert cpu == 1.5


def test_a_failure_ends_the_load(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(closed_loop, "drive", lambda *job: Driven([0.1], failed=1, elapsed=1.0, cpu=0.0))
    with ThreadPool(1) as pool, pytest.raises(RuntimeError, match="1 requests failed, 1 did not"):
        without_wrk(pool, "", b"", 1, 1)
