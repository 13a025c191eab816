"""Batching, with engines made of events instead of silicon, so that every interleaving is forced, not hoped for."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager

import pytest

from service.batching import Batcher, Closed, DrainRate, Timing

TIMEOUT_S = 10


class GatedEngine:
    """Records its batches; each runs only when `release` lets it."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.started = threading.Semaphore(0)
        self.gate = threading.Semaphore(0)

    def __call__(self, items: Sequence[int]) -> list[int]:
        self.batches.append(list(items))
        self.started.release()
        assert self.gate.acquire(timeout=TIMEOUT_S)
        return [10 * item for item in items]

    async def wait_started(self) -> None:
        assert await asyncio.to_thread(self.started.acquire, timeout=TIMEOUT_S)

    def release(self, batches: int = 1) -> None:
        self.gate.release(batches)


@contextmanager
def batcher(
    run: Callable[[Sequence[int]], Sequence[int]], *, max_batch: int = 4, max_wait: float = 0
) -> Iterator[Batcher[int, int]]:
    made: Batcher[int, int] = Batcher(run, max_batch=max_batch, max_wait=max_wait)
    try:
        yield made
    finally:
        made.close()


async def queued(made: Batcher[int, int], count: int) -> None:
    async with asyncio.timeout(TIMEOUT_S):
        while len(made) < count:  # noqa: ASYNC110  what is waited for is a length, not an event
            await asyncio.sleep(0.001)


async def gather(*submitted: Awaitable[tuple[int, Timing]]) -> list[int]:
    async with asyncio.timeout(TIMEOUT_S):
        return [result for result, _ in await asyncio.gather(*submitted)]


def test_a_lone_item_runs_at_once_and_what_gathers_meanwhile_is_one_batch() -> None:
    engine = GatedEngine()

    async def scenario(made: Batcher[int, int]) -> list[int]:
        first = asyncio.create_task(made.submit(0))
        await engine.wait_started()
        rest = [asyncio.create_task(made.submit(item)) for item in (1, 2, 3)]
        await queued(made, 3)
        engine.release(2)
        return await gather(first, *rest)

    with batcher(engine) as made:
        assert asyncio.run(scenario(made)) == [0, 10, 20, 30]
    assert engine.batches == [[0], [1, 2, 3]]


def test_a_batch_is_never_larger_than_max_batch_and_keeps_the_order() -> None:
    engine = GatedEngine()

    async def scenario(made: Batcher[int, int]) -> list[int]:
        tasks = [asyncio.create_task(made.submit(0))]
        await engine.wait_started()
        tasks += [asyncio.create_task(made.submit(item)) for item in range(1, 10)]
        await queued(made, 9)
        engine.release(4)
        return await gather(*tasks)

    with batcher(engine, max_batch=4) as made:
        assert asyncio.run(scenario(made)) == [10 * item for item in range(10)]
    assert engine.batches == [[0], [1, 2, 3, 4], [5, 6, 7, 8], [9]]


def test_timings_say_where_the_time_went() -> None:
    engine = GatedEngine()

    async def scenario(made: Batcher[int, int]) -> list[Timing]:
        tasks = [asyncio.create_task(made.submit(0))]
        await engine.wait_started()
        tasks += [asyncio.create_task(made.submit(item)) for item in (1, 2)]
        await queued(made, 2)
        await asyncio.sleep(0.05)
        engine.release(2)
        return [timing for _, timing in await asyncio.gather(*tasks)]

    with batcher(engine) as made:
        first, second, third = asyncio.run(scenario(made))
    assert (first.batch_size, second.batch_size, third.batch_size) == (1, 2, 2)
    assert first.ran >= 0.05
    assert second.queued >= 0.05
    assert second.ran == third.ran


def test_whoever_leaves_before_the_batch_is_dropped_and_strands_nobody() -> None:
    engine = GatedEngine()

    async def scenario(made: Batcher[int, int]) -> list[int]:
        first = asyncio.create_task(made.submit(0))
        await engine.wait_started()
        leaving, staying = (asyncio.create_task(made.submit(item)) for item in (1, 2))
        await queued(made, 2)
        leaving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await leaving
        engine.release(2)
        return await gather(first, staying)

    with batcher(engine) as made:
        assert asyncio.run(scenario(made)) == [0, 20]
    assert engine.batches == [[0], [2]]


def test_whoever_leaves_during_the_batch_strands_nobody() -> None:
    engine = GatedEngine()

    async def scenario(made: Batcher[int, int]) -> list[int]:
        first = asyncio.create_task(made.submit(0))
        await engine.wait_started()
        leaving, staying = (asyncio.create_task(made.submit(item)) for item in (1, 2))
        await queued(made, 2)
        engine.release()
        await engine.wait_started()
        leaving.cancel()
        engine.release()
        return await gather(first, staying)

    with batcher(engine) as made:
        assert asyncio.run(scenario(made)) == [0, 20]
    assert engine.batches == [[0], [1, 2]]


def test_a_failing_batch_fails_its_items_and_the_next_one_runs() -> None:
    def run(items: Sequence[int]) -> list[int]:
        if 13 in items:
            raise ValueError("thirteen")
        return list(items)

    async def scenario(made: Batcher[int, int]) -> None:
        with pytest.raises(ValueError, match="thirteen"):
            await made.submit(13)
        assert (await made.submit(14))[0] == 14

    with batcher(run) as made:
        asyncio.run(scenario(made))


def test_a_wrong_number_of_results_is_an_error_not_a_mixup() -> None:
    async def scenario(made: Batcher[int, int]) -> None:
        with pytest.raises(RuntimeError, match="2 results for a batch of 1"):
            await made.submit(1)

    with batcher(lambda items: [*items, 0]) as made:
        asyncio.run(scenario(made))


def test_max_wait_gathers_until_the_batch_is_full() -> None:
    batches: list[int] = []

    def run(items: Sequence[int]) -> list[int]:
        batches.append(len(items))
        return list(items)

    async def scenario(made: Batcher[int, int]) -> None:
        await gather(*(made.submit(item) for item in range(3)))

    with batcher(run, max_batch=3, max_wait=TIMEOUT_S) as made:
        asyncio.run(scenario(made))  # would time out if a full batch waited on
    assert batches == [3]


def test_max_wait_ends_counted_from_the_first_item() -> None:
    async def scenario(made: Batcher[int, int]) -> tuple[int, Timing]:
        return await made.submit(7)

    with batcher(lambda items: list(items), max_batch=8, max_wait=0.05) as made:
        result, timing = asyncio.run(scenario(made))
    assert result == 7
    assert timing.queued >= 0.05


def test_closing_finishes_what_is_queued_and_takes_no_more() -> None:
    engine = GatedEngine()

    async def scenario(made: Batcher[int, int]) -> None:
        tasks = [asyncio.create_task(made.submit(0))]
        await engine.wait_started()
        tasks += [asyncio.create_task(made.submit(item)) for item in (1, 2)]
        await queued(made, 2)
        closing = asyncio.create_task(asyncio.to_thread(made.close))
        await asyncio.sleep(0.01)
        engine.release(2)
        assert await gather(*tasks) == [0, 10, 20]
        await closing
        with pytest.raises(Closed):
            await made.submit(3)

    with batcher(engine) as made:
        asyncio.run(scenario(made))


def test_on_batch_is_told_every_batch() -> None:
    told: list[int] = []
    made: Batcher[int, int] = Batcher(list, max_batch=4, on_batch=told.append)

    async def scenario() -> None:
        await made.submit(1)

    asyncio.run(scenario())
    made.close()
    assert told == [1]


def test_drain_rate_follows_what_is_measured() -> None:
    rate = DrainRate()
    assert rate.per_second == 0
    rate.record(8, 0.1)
    assert rate.per_second == pytest.approx(80)
    for _ in range(100):
        rate.record(8, 0.2)
    assert rate.per_second == pytest.approx(40, rel=0.01)


def test_an_idle_batcher_sleeps_without_a_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float | None] = []
    asleep = threading.Event()

    class Watched(threading.Condition):
        def wait(self, timeout: float | None = None) -> bool:
            if threading.current_thread().name == "batcher":
                waits.append(timeout)
                asleep.set()
            return super().wait(timeout)

    monkeypatch.setattr("service.batching.threading.Condition", Watched)
    with batcher(lambda items: list(items)):
        assert asleep.wait(TIMEOUT_S)
        time.sleep(0.05)
    assert waits == [None]  # once, without a timeout: no polling


def test_failures_do_not_count_as_draining() -> None:
    def fail(items: Sequence[int]) -> list[int]:
        raise ValueError("broken")

    async def scenario(made: Batcher[int, int]) -> None:
        with pytest.raises(ValueError, match="broken"):
            await made.submit(1)

    with batcher(fail) as made:
        asyncio.run(scenario(made))
        assert made.drain_rate.per_second == 0
