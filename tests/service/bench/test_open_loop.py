"""The open-loop client, against a small real server (what it measures: `tests/benchmarks/test_open_loop.py`)."""

from __future__ import annotations

import asyncio
import math
from itertools import pairwise

import pytest

from service.bench.open_loop import Client, schedule, settled
from service.bench.requests import Upload
from tests.benchmarks.conftest import OK, Server, ok


def test_the_schedule_is_a_poisson_process_of_the_rate() -> None:
    moments = schedule(rate=100, seconds=100, seed=0)
    gaps = [later - earlier for earlier, later in pairwise(moments)]
    mean = sum(gaps) / len(gaps)
    assert abs(len(moments) - 10_000) < 4 * math.sqrt(10_000)
    # exponential gaps: as wide as they are long, and e^-1 of them longer than the mean
    assert math.sqrt(sum((gap - mean) ** 2 for gap in gaps) / len(gaps)) == pytest.approx(mean, rel=0.05)
    assert sum(gap > mean for gap in gaps) / len(gaps) == pytest.approx(math.exp(-1), abs=0.02)
    assert 0 < moments[0] < moments[-1] < 100


def test_a_seed_gives_one_schedule() -> None:
    assert schedule(50, 2, seed=3) == schedule(50, 2, seed=3)
    assert schedule(50, 2, seed=3) != schedule(50, 2, seed=4)


def test_an_answer_has_its_status_and_headers() -> None:
    async def second_hangs_up(number: int) -> bytes:
        return b"" if number else b"HTTP/1.1 503 Busy\r\nRetry-After: 2\r\ncontent-length: 0\r\n\r\n"

    async def run() -> None:
        async with Server(second_hangs_up).running() as root:
            client, due = Client(root, [Upload(b"")]), asyncio.get_running_loop().time()
            refused, broken = await client.send(due), await client.send(due)
            client.close()
        assert (refused.status, refused.headers["retry-after"], refused.ok) == (503, "2", False)
        assert (refused.refusal, broken.refusal) == ("503", "no answer")
        assert (broken.status, broken.headers, broken.ok) == (0, {}, False)
        assert refused.due == broken.due == due

    asyncio.run(run())


def test_requests_of_a_closed_client_have_no_answer() -> None:
    async def never(number: int) -> bytes:
        await asyncio.Event().wait()
        return OK

    async def run() -> None:
        async with Server(never).running() as root:
            client = Client(root, [Upload(b"")], max_connections=1)
            outcomes = [client.send(0), client.send(0)]
            assert await settled(outcomes, 0.1) == []
            client.close()
            assert (await outcomes[0]).status == 0
            assert not outcomes[1].done()

    asyncio.run(run())


def test_images_take_turns_and_headers_are_sent() -> None:
    server = Server(ok)

    async def run() -> None:
        async with server.running() as root:
            client = Client(root, [Upload(b"one"), Upload(b"two", "image/png")], 1, {"X-API-Key": "secret"})
            answers = await settled([client.send(0) for _ in range(3)], 10)
            client.close()
            assert [answer.refusal for answer in answers] == ["", "", ""]

    asyncio.run(run())
    assert [request.rpartition(b"\r\n\r\n")[2] for request in server.requests] == [b"one", b"two", b"one"]
    assert b"\r\nX-API-Key: secret\r\n\r\n" in server.requests[0]
    assert b"\r\ncontent-type: image/png\r\n" in server.requests[1]
