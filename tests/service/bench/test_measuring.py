"""Levels of load, against a small real server."""

from __future__ import annotations

import asyncio

import pytest

from service.bench.levels import Level
from service.bench.measuring import Target, closed, opened
from service.bench.requests import Upload
from tests.benchmarks.conftest import OK, Server, ok

BUSY = b'HTTP/1.1 503 Busy\r\ncontent-length: 32\r\n\r\n{"type": "/problems/overloaded"}'


def measured(server: Server, *, connections: int | None = None, rate: float = 0.0, seconds: float = 0.3) -> Level:
    async def run() -> Level:
        async with server.running() as root:
            target = Target(f"{root}/classify", [Upload(b"one"), Upload(b"two")], {"X-API-Key": "secret"})
            if connections is not None:
                return await asyncio.to_thread(closed, target, connections, seconds)
            return await asyncio.to_thread(opened, target, rate, seconds)

    return asyncio.run(run())


def test_a_closed_loop() -> None:
    server = Server(ok)
    found = measured(server, connections=2)
    assert (found.connections, found.rate, found.refusals) == (2, None, {})
    assert 0 < len(found.latencies) < len(server.requests)  # those of the warm-up are not counted
    assert list(found.latencies) == sorted(found.latencies)
    assert found.per_second == pytest.approx(len(found.latencies) / found.seconds)
    assert all(b"\r\nX-API-Key: secret\r\n" in request for request in server.requests)


def test_an_open_loop_counts_from_when_requests_were_due() -> None:
    """All wait for one answer that takes 0.6 s: new connections open, but the server answers in turn."""
    turn = asyncio.Lock()

    async def slow(number: int) -> bytes:
        async with turn:
            await asyncio.sleep(0.05)
        return OK

    found = measured(Server(slow), rate=100)
    assert found.rate == 100
    assert len(found.latencies) > 10
    # An answer takes 50 ms and ten are due meanwhile... the last one waits for all those before it.
    assert found.latencies[-1] > 50 * len(found.latencies) / 2
    assert found.seconds > 0.3


def test_refusals_have_names() -> None:
    async def every_second(number: int) -> bytes:
        return BUSY if number % 2 else OK

    for found in (measured(Server(every_second), connections=1), measured(Server(every_second), rate=100)):
        assert set(found.refusals) == {"503 overloaded"}
        assert found.latencies


def test_nothing_listens() -> None:
    target = Target("http://127.0.0.1:1/", [Upload(b"")], {})
    with pytest.raises(OSError, match="refused"):
        closed(target, 1, 0.1)
    found = opened(target, 50, 0.1)
    assert (found.latencies, set(found.refusals)) == ([], {"no answer"})
