"""The closed-loop load, against a small real server."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from multiprocessing.pool import ThreadPool

import pytest

from benchmarks import closed_loop
from benchmarks.closed_loop import without_wrk
from service.bench.closed_loop import ProcessLoad, drive
from service.bench.requests import Upload
from tests.benchmarks.conftest import OK, Server, ok


def loaded(
    server: Server, *, connections: int, uploads: Sequence[Upload] = (Upload(b"jpeg"),), seconds: float = 0.2
) -> ProcessLoad:
    """The result of loading this server."""

    async def run() -> ProcessLoad:
        async with server.running() as root:
            return await asyncio.to_thread(drive, f"{root}/classify", uploads, connections, seconds)

    return asyncio.run(run())


def test_every_answer_of_the_load_is_counted() -> None:
    server = Server(ok)
    found = loaded(server, connections=3)
    assert found.failed == 0
    assert 0 <= len(server.requests) - len(found.latencies) <= 3  # those in flight at the end
    assert server.requests[0].startswith(b"POST /classify HTTP/1.1\r\nhost: 127.0.0.1:")
    assert {request.partition(b"\r\n\r\n")[2] for request in server.requests} == {b"jpeg"}


def test_a_broken_connection_is_opened_again() -> None:
    async def first_hangs_up(number: int) -> bytes:
        return OK if number else b""

    server = Server(first_hangs_up)
    found = loaded(server, connections=1, seconds=1.0)
    assert found.failed == 1
    assert server.connections == 2
    assert found.latencies


@pytest.mark.parametrize(
    "answer",
    [b"HTTP/1.1 503 Busy\r\ncontent-length: 0\r\n\r\n", b"no HTTP\r\n\r\n", b""],
    ids=["an error", "garbage", "hanging up"],
)
def test_failures_of_the_load_are_counted_and_not_timed(answer: bytes) -> None:
    async def second_fails(number: int) -> bytes:
        return answer if number == 1 else OK

    server = Server(second_fails)
    found = loaded(server, connections=2)
    assert found.failed == 1
    assert len(found.latencies) < len(server.requests)


def test_uploads_take_turns_and_have_statuses_of_their_own() -> None:
    async def refuses_every_second(number: int) -> bytes:
        return b"HTTP/1.1 422 No\r\ncontent-length: 0\r\n\r\n" if number % 2 else OK

    server = Server(refuses_every_second)
    found = loaded(server, connections=1, uploads=[Upload(b"good"), Upload(b"bad", "image/png", 422)])
    bodies = [request.partition(b"\r\n\r\n")[2] for request in server.requests[:4]]
    assert bodies == [b"good", b"bad", b"good", b"bad"]
    assert b"content-type: image/png\r\n" in server.requests[1]
    assert found.failed == 0
    assert len(found.latencies) >= 4


def test_the_load_is_shared_among_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    shares = []

    def driven(url: str, uploads: Sequence[Upload], connections: int, seconds: float) -> ProcessLoad:
        shares.append(connections)
        return ProcessLoad([0.1, 0.3], failed=0, elapsed=2.0, cpu=0.5)

    monkeypatch.setattr(closed_loop, "drive", driven)
    monkeypatch.setattr(closed_loop, "usable_cores", lambda: 3)
    with ThreadPool(1) as pool:
        load, cpu = without_wrk(pool, [""], b"", 8, 2)
    assert sorted(shares) == [2, 3, 3]
    assert load == (3.0, 100.0, 300.0, 300.0)
    assert cpu == 1.5


def test_a_failure_ends_the_load(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(closed_loop, "drive", lambda *job: ProcessLoad([0.1], failed=1, elapsed=1.0, cpu=0.0))
    with ThreadPool(1) as pool, pytest.raises(RuntimeError, match="1 requests failed, 1 were answered"):
        without_wrk(pool, [""], b"", 1, 1)
