"""The open-loop generator, against a small real server."""

from __future__ import annotations

import asyncio
import math

import pytest

from benchmarks.open_loop import OpenLoad, drive, ideal_latencies
from service.bench.open_loop import schedule
from tests.benchmarks.conftest import OK, Server, ok


def loaded(
    server: Server, *, rate: float = 200, seconds: float = 0.25, max_connections: int = 512, drain: float = 10
) -> OpenLoad:
    """The result of a run against this server."""

    async def run() -> OpenLoad:
        async with server.running() as root:
            return await drive(
                f"{root}/path?x=1",
                b"body",
                rate=rate,
                seconds=seconds,
                seed=1,
                max_connections=max_connections,
                drain=drain,
            )

    return asyncio.run(run())


def test_every_scheduled_request_is_sent_and_counted() -> None:
    server = Server(ok)
    found = loaded(server)
    moments = schedule(200, 0.25, seed=1)
    assert (found.completed, found.failed) == (len(moments), 0)
    assert found.offered == len(moments) / 0.25
    assert len(server.requests) == len(moments)
    assert server.requests[0].startswith(b"POST /path?x=1 HTTP/1.1\r\nhost: 127.0.0.1:")
    assert server.requests[0].endswith(b"content-type: image/jpeg\r\ncontent-length: 4\r\n\r\nbody")


def test_connections_are_kept() -> None:
    server = Server(ok)
    loaded(server, max_connections=2)
    assert server.connections <= 2


def test_chunked_answers_end_where_their_last_chunk_does() -> None:
    async def chunked(number: int) -> bytes:
        return b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"

    assert loaded(Server(chunked), max_connections=1).failed == 0


def test_a_stall_counts_for_all_requests_due_meanwhile() -> None:
    """One connection, and the first answer takes 0.6 s: requests due in the first 0.25 s wait for most of it."""

    async def stalls_once(number: int) -> bytes:
        await asyncio.sleep(0.6 if number == 0 else 0)
        return OK

    found = loaded(Server(stalls_once), max_connections=1)
    assert found.failed == 0
    assert found.p50 > 300  # a closed loop would see one slow answer, and a median near zero


def test_a_stall_of_one_connection_does_not_hold_the_others_back() -> None:
    """New connections open as needed: requests are sent while the first is unanswered."""
    everything = len(schedule(200, 0.25, seed=1))
    all_sent = asyncio.Event()

    async def answers_all_at_the_end(number: int) -> bytes:
        if number == everything - 1:
            all_sent.set()
        await all_sent.wait()
        return OK

    server = Server(answers_all_at_the_end)
    assert loaded(server).completed == everything
    assert server.connections == everything


@pytest.mark.parametrize(
    "answer",
    [b"HTTP/1.1 503 Busy\r\ncontent-length: 0\r\n\r\n", b"no HTTP\r\n\r\n", b""],
    ids=["an error", "garbage", "hanging up"],
)
def test_failures_are_counted_and_not_timed(answer: bytes) -> None:
    async def second_fails(number: int) -> bytes:
        return answer if number == 1 else OK

    found = loaded(Server(second_fails))
    assert found.failed == 1
    assert found.completed == len(schedule(200, 0.25, seed=1)) - 1


def test_requests_that_are_never_answered_fail() -> None:
    async def never(number: int) -> bytes:
        await asyncio.Event().wait()
        return OK

    found = loaded(Server(never), max_connections=3, drain=0.1)
    assert (found.completed, found.failed) == (0, len(schedule(200, 0.25, seed=1)))
    assert math.isnan(found.p50)


def test_every_request_fails_if_nothing_listens() -> None:
    found = asyncio.run(drive("http://127.0.0.1:1/", b"", rate=100, seconds=0.1, seed=1))
    assert (found.completed, found.failed) == (0, len(schedule(100, 0.1, seed=1)))


def test_an_ideal_queue() -> None:
    assert ideal_latencies([0, 1, 1.5, 10], servers=1, service_s=2) == [2, 3, 4.5, 2]
    assert ideal_latencies([0, 1, 1.5, 10], servers=2, service_s=2) == [2, 2, 2.5, 2]
    # M/D/1 at a load of 0.7 (Pollaczek and Khinchine): a wait of 0.7 / (2 * 0.3) service times, and one of service
    latencies = ideal_latencies(schedule(0.7, 200_000, seed=1), servers=1, service_s=1)
    assert sum(latencies) / len(latencies) == pytest.approx(1 + 0.7 / 0.6, rel=0.03)


def test_connections_idle_for_long_are_not_reused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.bench.open_loop.MAX_IDLE_S", 0.0)
    server = Server(ok)
    found = loaded(server, rate=50)
    assert (found.failed, found.completed) == (0, len(server.requests))
    # not always one each: a request that waits for a connection to open may get one that has just become free
    assert server.connections > len(server.requests) / 2 > 1
