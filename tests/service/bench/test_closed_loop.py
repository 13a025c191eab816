"""The closed loop names what it is refused for (what it measures: `tests/benchmarks/test_closed_loop.py`)."""

from __future__ import annotations

import asyncio

from service.bench.closed_loop import ProcessLoad, drive
from service.bench.requests import Upload
from tests.benchmarks.conftest import OK, Server

BUSY = b'HTTP/1.1 503 Busy\r\ncontent-length: 33\r\n\r\n{"type": "/problems/overloaded", }'.replace(b", }", b"}  ")


def test_refusals_are_counted_by_problem() -> None:
    async def every_third(number: int) -> bytes:
        return (OK, BUSY, b"")[number % 3]

    async def run() -> ProcessLoad:
        async with Server(every_third).running() as root:
            return await asyncio.to_thread(drive, root, [Upload(b"jpeg")], 1, 1.0, {"X-API-Key": "secret"})

    found = asyncio.run(run())
    assert found.latencies
    assert found.refusals.keys() == {"503 overloaded", "no answer"}
    assert found.failed == sum(found.refusals.values())
