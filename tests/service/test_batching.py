"""Batching, with engines that semaphores control: every interleaving is forced."""

from __future__ import annotations

import asyncio
import queue
import threading
import time
import weakref
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from types import SimpleNamespace

import pytest

from service.batch_sizes import ExactSizes
from service.batching import Batcher, BatchTiming, Closed, Expired, Ran, Running
from tests.support.waiting import async_until

TIMEOUT_S = 60

Submitted = asyncio.Task[tuple[int, BatchTiming]]


class GatedEngine:
    """An engine that records its batches; each ends only after `release`."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.alone: list[bool] = []
        self.started = threading.Semaphore(0)
        self.gate = threading.Semaphore(0)
        self._recording = threading.Lock()

    def __call__(self, items: Sequence[int], alone: bool) -> list[int]:
        with self._recording:
            self.batches.append(list(items))
            self.alone.append(alone)
        self.started.release()
        assert self.gate.acquire(timeout=TIMEOUT_S)
        return [10 * item for item in items]

    async def wait_started(self, batches: int = 1) -> None:
        for _ in range(batches):
            assert await asyncio.to_thread(self.started.acquire, timeout=TIMEOUT_S)

    def release(self, batches: int = 1) -> None:
        self.gate.release(batches)


@contextmanager
def batcher(
    run: Callable[[Sequence[int], bool], Sequence[int | Exception]],
    *,
    sizes: Sequence[int] = (1, 2, 3, 4),
    lanes: int = 1,
    max_wait: float = 0,
) -> Iterator[Batcher[int, int]]:
    made: Batcher[int, int] = Batcher(run, sizes=ExactSizes(sizes), lanes=lanes, max_wait=max_wait)
    try:
        yield made
    finally:
        made.close()


async def submit(made: Batcher[int, int], item: int) -> tuple[int, BatchTiming]:
    """Submits an item and waits for its result."""
    future: asyncio.Future[tuple[int, BatchTiming]] = asyncio.get_running_loop().create_future()
    made.submit(item, future)
    return await future


async def occupy(made: Batcher[int, int], engine: GatedEngine, items: Iterable[int]) -> list[Submitted]:
    """Submits item 0, which occupies the engine, then these items, which wait behind it."""
    tasks = [asyncio.create_task(submit(made, 0))]
    await engine.wait_started()
    tasks += [asyncio.create_task(submit(made, item)) for item in items]
    await async_until(lambda: len(made._queue) == len(tasks) - 1)
    return tasks


async def gather(*submitted: Awaitable[tuple[int, BatchTiming]]) -> list[int]:
    async with asyncio.timeout(TIMEOUT_S):
        return [result for result, _ in await asyncio.gather(*submitted)]


def living_lanes() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("batcher-")]


@pytest.fixture
def sleeps(monkeypatch: pytest.MonkeyPatch) -> queue.SimpleQueue[float | None]:
    """The timeout of every sleep of a lane, from its start on."""
    timeouts: queue.SimpleQueue[float | None] = queue.SimpleQueue()

    class Watched(threading.Condition):
        def wait(self, timeout: float | None = None) -> bool:
            timeouts.put(timeout)
            return super().wait(timeout)

    # Only in that module: threads and semaphores are made of conditions, too.
    monkeypatch.setattr("service.batching.threading", SimpleNamespace(Condition=Watched, Thread=threading.Thread))
    return timeouts


def test_a_lone_item_runs_at_once_and_items_that_gather_meanwhile_are_one_batch() -> None:
    engine = GatedEngine()

    async def scenario(made: Batcher[int, int]) -> list[int]:
        tasks = await occupy(made, engine, (1, 2, 3))
        engine.release(2)
        return await gather(*tasks)

    with batcher(engine) as made:
        assert asyncio.run(scenario(made)) == [0, 10, 20, 30]
    assert engine.batches == [[0], [1, 2, 3]]


def test_a_batch_is_never_larger_than_the_largest_size_and_keeps_the_order() -> None:
    engine = GatedEngine()

    async def scenario(made: Batcher[int, int]) -> list[int]:
        tasks = await occupy(made, engine, range(1, 10))
        engine.release(4)
        return await gather(*tasks)

    with batcher(engine) as made:
        assert asyncio.run(scenario(made)) == [10 * item for item in range(10)]
    assert engine.batches == [[0], [1, 2, 3, 4], [5, 6, 7, 8], [9]]


def test_timings_say_where_the_time_went() -> None:
    engine = GatedEngine()

    async def scenario(made: Batcher[int, int]) -> list[BatchTiming]:
        tasks = await occupy(made, engine, (1, 2))
        await asyncio.sleep(0.05)
        engine.release(2)
        return [timing for _, timing in await asyncio.gather(*tasks)]

    with batcher(engine) as made:
        first, second, third = asyncio.run(scenario(made))
    assert (first.batch_size, second.batch_size, third.batch_size) == (1, 2, 2)
    assert first.ran >= 0.05
    assert second.queued >= 0.05
    assert second.ran == third.ran


def test_an_item_cancelled_before_its_batch_is_dropped_and_the_others_are_answered() -> None:
    engine = GatedEngine()

    async def scenario(made: Batcher[int, int]) -> list[int]:
        first, leaving, staying = await occupy(made, engine, (1, 2))
        leaving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await leaving
        engine.release(2)
        return await gather(first, staying)

    with batcher(engine) as made:
        assert asyncio.run(scenario(made)) == [0, 20]
    assert engine.batches == [[0], [2]]


def test_an_item_cancelled_during_its_batch_does_not_affect_the_others() -> None:
    engine = GatedEngine()

    async def scenario(made: Batcher[int, int]) -> list[int]:
        first, leaving, staying = await occupy(made, engine, (1, 2))
        engine.release()
        await engine.wait_started()
        leaving.cancel()
        engine.release()
        return await gather(first, staying)

    with batcher(engine) as made:
        assert asyncio.run(scenario(made)) == [0, 20]
    assert engine.batches == [[0], [1, 2]]


def test_a_failing_batch_fails_its_items_and_the_next_one_runs() -> None:
    def run(items: Sequence[int], alone: bool) -> list[int]:
        if 13 in items:
            raise ValueError("thirteen")
        return list(items)

    async def scenario(made: Batcher[int, int]) -> None:
        with pytest.raises(ValueError, match="thirteen"):
            await submit(made, 13)
        assert (await submit(made, 14))[0] == 14

    with batcher(run) as made:
        asyncio.run(scenario(made))


def test_an_exception_as_a_result_fails_its_item_alone() -> None:
    batches: list[list[int]] = []

    def run(items: Sequence[int], alone: bool) -> list[int | Exception]:
        batches.append(list(items))
        return [ValueError("thirteen") if item == 13 else item for item in items]

    async def scenario(made: Batcher[int, int]) -> None:
        submitted = [submit(made, item) for item in (12, 13, 14)]
        before, thirteenth, after = await asyncio.gather(*submitted, return_exceptions=True)
        assert (before[0], after[0]) == (12, 14)  # type: ignore[index]
        assert isinstance(thirteenth, ValueError)

    with batcher(run, sizes=(1, 2, 3), max_wait=TIMEOUT_S) as made:
        asyncio.run(scenario(made))
    assert batches == [[12, 13, 14]]


def test_a_wrong_number_of_results_fails_the_batch() -> None:
    async def scenario(made: Batcher[int, int]) -> None:
        with pytest.raises(RuntimeError, match="2 results for a batch of 1"):
            await submit(made, 1)

    with batcher(lambda items, alone: [*items, 0]) as made:
        asyncio.run(scenario(made))


def test_max_wait_gathers_until_the_batch_is_full() -> None:
    batches: list[int] = []

    def run(items: Sequence[int], alone: bool) -> list[int]:
        batches.append(len(items))
        return list(items)

    async def scenario(made: Batcher[int, int]) -> None:
        await gather(*(submit(made, item) for item in range(3)))

    with batcher(run, sizes=(1, 2, 3), max_wait=TIMEOUT_S) as made:
        asyncio.run(scenario(made))  # times out if a full batch waits any longer
    assert batches == [3]


def test_max_wait_is_counted_from_the_first_item() -> None:
    async def scenario(made: Batcher[int, int]) -> tuple[int, BatchTiming]:
        return await submit(made, 7)

    with batcher(lambda items, alone: list(items), sizes=(1, 8), max_wait=0.05) as made:
        result, timing = asyncio.run(scenario(made))
    assert result == 7
    assert timing.queued >= 0.05


def test_closing_runs_queued_items_and_refuses_new_ones() -> None:
    engine = GatedEngine()

    async def scenario(made: Batcher[int, int]) -> None:
        tasks = await occupy(made, engine, (1, 2))
        closing = asyncio.create_task(asyncio.to_thread(made.close))
        await asyncio.sleep(0.01)
        engine.release(2)
        assert await gather(*tasks) == [0, 10, 20]
        await closing
        with pytest.raises(Closed):
            await submit(made, 3)

    with batcher(engine) as made:
        asyncio.run(scenario(made))


def test_on_batch_gets_every_batch_and_marks_its_items() -> None:
    batches: list[Ran[int]] = []

    def run(items: Sequence[int], alone: bool) -> Sequence[int]:
        if 0 in items:
            raise ValueError
        return items

    def on_batch(batch: Ran[int]) -> bytes:
        batches.append(batch)
        return b"mark"

    made: Batcher[int, int] = Batcher(run, sizes=ExactSizes((1,)), on_batch=on_batch)

    async def scenario() -> BatchTiming:
        future: asyncio.Future[tuple[int, BatchTiming]] = asyncio.get_running_loop().create_future()
        made.submit(1, future)
        _, timing = await future
        with pytest.raises(ValueError):  # noqa: PT011 (it has no message)
            await submit(made, 0)
        return timing

    timing = asyncio.run(scenario())
    made.close()
    assert [(batch.items, batch.failed) for batch in batches] == [([1], False), ([0], True)]
    assert timing.batch == b"mark"
    assert (timing.started, timing.ran) == (batches[0].started, batches[0].seconds)


def test_a_failing_on_batch_costs_no_result_and_no_lane(caplog: pytest.LogCaptureFixture) -> None:
    def on_batch(batch: Ran[int]) -> bytes:
        raise OSError("no room")

    made: Batcher[int, int] = Batcher(lambda items, alone: items, sizes=ExactSizes((1,)), on_batch=on_batch)

    async def scenario() -> list[int]:
        return [(await submit(made, item))[0] for item in (1, 2)]

    assert asyncio.run(scenario()) == [1, 2]
    made.close()
    assert [record.message for record in caplog.records] == ["a batch of 1 was not counted"] * 2


@pytest.mark.parametrize(
    ("sizes", "batches"),
    [
        ((1, 2, 4), [[0], [1, 2, 3, 4], [5, 6], [7]]),
        ((1, 4), [[0], [1, 2, 3, 4], [5], [6], [7]]),
        ((1, 2, 4, 8), [[0], [1, 2, 3, 4], [5, 6], [7]]),
        ((1,), [[item] for item in range(8)]),
    ],
)
def test_batches_have_only_the_given_sizes(sizes: Sequence[int], batches: list[list[int]]) -> None:
    engine = GatedEngine()

    async def scenario(made: Batcher[int, int]) -> list[int]:
        tasks = await occupy(made, engine, range(1, 8))
        engine.release(8)
        return await gather(*tasks)

    with batcher(engine, sizes=sizes) as made:
        assert asyncio.run(scenario(made)) == [10 * item for item in range(8)]
    assert engine.batches == batches


def test_a_lone_item_has_the_engine_to_itself() -> None:
    engine = GatedEngine()

    async def scenario(made: Batcher[int, int]) -> list[int]:
        tasks = await occupy(made, engine, (1, 2))
        assert not await asyncio.to_thread(engine.started.acquire, timeout=0.05)  # two lanes are free, but wait
        assert engine.batches == [[0]]
        engine.release()
        await engine.wait_started(2)  # together
        engine.release(2)
        return await gather(*tasks)

    with batcher(engine, lanes=3) as made:
        assert asyncio.run(scenario(made)) == [0, 10, 20]
    assert sorted(engine.batches) == [[0], [1], [2]]
    assert engine.alone == [True, False, False]


def test_with_one_lane_an_item_runs_alone_if_no_other_waits() -> None:
    engine = GatedEngine()

    async def scenario(made: Batcher[int, int]) -> None:
        for item in (0, 1):
            engine.release()
            await gather(submit(made, item))

    with batcher(engine) as made:
        asyncio.run(scenario(made))
    assert engine.alone == [True, True]


@pytest.mark.parametrize(
    ("lanes", "waiting", "batches"),
    [
        (2, 4, [[1, 2], [3, 4]]),
        (2, 3, [[1, 2], [3]]),
        (4, 4, [[1], [2], [3], [4]]),
        (3, 12, [[1, 2, 3, 4], [5, 6, 7, 8], [9, 10, 11, 12]]),
        (2, 2, [[1], [2]]),
        (3, 7, [[1, 2], [3, 4], [5, 6], [7]]),  # a share of 3 is cut to size 2; item 7 waits for a lane
    ],
)
def test_free_lanes_share_the_queue(lanes: int, waiting: int, batches: list[list[int]]) -> None:
    engine = GatedEngine()

    async def scenario(made: Batcher[int, int]) -> list[int]:
        tasks = await occupy(made, engine, range(1, waiting + 1))
        engine.release()
        await engine.wait_started(min(lanes, len(batches)))  # at once
        engine.release(len(batches))
        return await gather(*tasks)

    with batcher(engine, sizes=(1, 2, 4), lanes=lanes) as made:
        assert asyncio.run(scenario(made)) == [10 * item for item in range(waiting + 1)]
    assert sorted(engine.batches[1:]) == batches
    assert engine.alone[:2] == [True, False]


def test_a_free_lane_takes_a_new_item_while_another_is_busy() -> None:
    engine = GatedEngine()

    async def scenario(made: Batcher[int, int]) -> list[int]:
        tasks = await occupy(made, engine, (1, 2))
        engine.release()
        await engine.wait_started(2)
        engine.release()  # of either 1 or 2
        await asyncio.wait(tasks[1:], return_when=asyncio.FIRST_COMPLETED)
        tasks.append(asyncio.create_task(submit(made, 3)))
        await engine.wait_started()
        engine.release(2)
        return await gather(*tasks)

    with batcher(engine, lanes=2) as made:
        assert asyncio.run(scenario(made)) == [0, 10, 20, 30]
    assert engine.batches[-1] == [3]
    assert engine.alone == [True, False, False, False]  # 3 ran beside another


def test_a_failing_batch_fails_its_items_and_not_those_of_another_lane() -> None:
    started, first = threading.Event(), threading.Event()
    second = threading.Barrier(2, timeout=TIMEOUT_S)

    def run(items: Sequence[int], alone: bool) -> list[int]:
        if 0 in items:
            started.set()
            assert first.wait(TIMEOUT_S)
        elif not alone:
            second.wait()
        if 1 in items:
            raise ValueError("one")
        return list(items)

    async def scenario(made: Batcher[int, int]) -> list[int | type]:
        tasks = [asyncio.create_task(submit(made, 0))]
        assert await asyncio.to_thread(started.wait, TIMEOUT_S)
        tasks += [asyncio.create_task(submit(made, item)) for item in (1, 2)]
        await async_until(lambda: len(made._queue) == 2)
        first.set()
        async with asyncio.timeout(TIMEOUT_S):
            outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        last, _ = await submit(made, 3)
        return [type(outcome) if isinstance(outcome, BaseException) else outcome[0] for outcome in outcomes] + [last]

    with batcher(run, lanes=2) as made:
        assert asyncio.run(scenario(made)) == [0, ValueError, 2, 3]


def test_closing_several_lanes_runs_queued_items() -> None:
    engine = GatedEngine()

    async def scenario(made: Batcher[int, int]) -> None:
        tasks = await occupy(made, engine, range(1, 10))
        closing = asyncio.create_task(asyncio.to_thread(made.close))
        engine.release(10)
        assert await gather(*tasks) == [10 * item for item in range(10)]
        async with asyncio.timeout(TIMEOUT_S):
            await closing
        assert living_lanes() == []

    with batcher(engine, lanes=3, sizes=(1, 2)) as made:
        asyncio.run(scenario(made))


def test_closing_idle_lanes_returns() -> None:
    with batcher(lambda items, alone: list(items), lanes=4):
        assert len(living_lanes()) == 4
    assert living_lanes() == []


def test_closing_while_a_lone_item_runs_stops_every_lane(sleeps: queue.SimpleQueue[float | None]) -> None:
    engine = GatedEngine()
    made: Batcher[int, int] = Batcher(engine, sizes=ExactSizes((1, 2)), lanes=2)
    closing = threading.Thread(target=made.close, daemon=True)  # a daemon, in case it never ends

    async def scenario() -> bool:
        for _ in range(2):
            await asyncio.to_thread(sleeps.get, timeout=TIMEOUT_S)
        task = asyncio.create_task(submit(made, 0))
        await engine.wait_started()
        closing.start()
        await asyncio.to_thread(sleeps.get, timeout=TIMEOUT_S)  # the other lane has looked, and sleeps again
        engine.release()
        assert await gather(task) == [0]
        await asyncio.to_thread(closing.join, TIMEOUT_S)
        return not closing.is_alive()

    assert asyncio.run(scenario())


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_lane_survives_the_end_of_the_event_loop() -> None:
    engine = GatedEngine()

    async def leave(made: Batcher[int, int]) -> None:
        leaving = asyncio.create_task(submit(made, 0))
        await engine.wait_started()
        leaving.cancel()

    async def stay(made: Batcher[int, int]) -> tuple[int, BatchTiming]:
        async with asyncio.timeout(TIMEOUT_S):
            return await submit(made, 1)

    with batcher(engine) as made:
        asyncio.run(leave(made))
        engine.release(2)
        assert asyncio.run(stay(made))[0] == 10


def test_many_items_on_several_lanes_get_their_own_results_and_lone_batches_run_alone() -> None:
    counting = threading.Lock()
    running: list[bool] = []  # `alone` of each running batch
    faults: list[list[bool]] = []

    def run(items: Sequence[int], alone: bool) -> list[int]:
        with counting:
            running.append(alone)
            if len(running) > 1 and any(running):
                faults.append(list(running))
        results = [10 * item for item in items]
        with counting:
            running.remove(alone)
        return results

    async def scenario(made: Batcher[int, int]) -> list[int]:
        return await gather(*(submit(made, item) for item in range(500)))

    with batcher(run, sizes=(1, 2, 4, 8), lanes=4) as made:
        for _ in range(3):
            assert asyncio.run(scenario(made)) == [10 * item for item in range(500)]
    assert faults == []


def test_an_idle_batcher_does_not_poll(sleeps: queue.SimpleQueue[float | None]) -> None:
    with batcher(lambda items, alone: list(items)):
        assert sleeps.get(timeout=TIMEOUT_S) is None
        time.sleep(0.05)
        assert sleeps.empty()


def test_the_drain_rate_ignores_failed_batches() -> None:
    def fail(items: Sequence[int], alone: bool) -> list[int]:
        raise ValueError("broken")

    async def scenario(made: Batcher[int, int]) -> None:
        with pytest.raises(ValueError, match="broken"):
            await submit(made, 1)

    with batcher(fail) as made:
        asyncio.run(scenario(made))
        assert made.drain_rate.per_second == 0


def test_every_lane_is_prepared_on_its_own_thread() -> None:
    prepared: list[str] = []
    made: Batcher[int, int] = Batcher(
        lambda items, alone: list(items),
        sizes=ExactSizes((1,)),
        lanes=3,
        prepare=lambda: prepared.append(threading.current_thread().name),
        name="lane",
    )
    assert sorted(prepared) == ["lane-0", "lane-1", "lane-2"]
    made.close()


def test_a_lane_that_cannot_be_prepared_fails_the_constructor() -> None:
    before = threading.active_count()

    def prepare() -> None:
        if threading.current_thread().name == "lane-1":
            raise MemoryError("no room")

    with pytest.raises(MemoryError, match="no room"):
        Batcher(lambda items, alone: list(items), sizes=ExactSizes((1,)), lanes=2, prepare=prepare, name="lane")
    assert threading.active_count() == before


def test_an_item_whose_deadline_has_passed_is_not_computed() -> None:
    engine = GatedEngine()

    async def scenario(made: Batcher[int, int]) -> None:
        running = await occupy(made, engine, ())
        loop = asyncio.get_running_loop()
        late, early = loop.create_future(), loop.create_future()
        made.submit(1, late, time.monotonic())
        made.submit(2, early, time.monotonic() + 1000)
        engine.release(2)
        with pytest.raises(Expired):
            await late
        assert (await early)[0] == 20
        assert await gather(*running) == [0]

    with batcher(engine) as made:
        asyncio.run(scenario(made))
    assert engine.batches == [[0], [2]]


def test_an_item_that_even_the_shortest_batch_would_answer_too_late_is_not_computed() -> None:
    batches: list[list[int]] = []

    def run(items: Sequence[int], alone: bool) -> list[int]:
        batches.append(list(items))
        return list(items)

    async def scenario() -> None:
        hopeless, in_time = (asyncio.get_running_loop().create_future() for _ in range(2))
        made.submit(1, hopeless, time.monotonic() + 50)
        made.submit(2, in_time, time.monotonic() + 1000)
        with pytest.raises(Expired):
            await hopeless
        await in_time

    made: Batcher[int, int] = Batcher(run, sizes=ExactSizes((1,)), shortest=100)
    asyncio.run(scenario())
    made.close()
    assert batches == [[2]]


def test_slow_batches_do_not_keep_items_with_short_deadlines_from_running(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = GatedEngine()
    ahead = 0.0

    def clock() -> float:
        return time.perf_counter() + ahead

    monkeypatch.setattr("service.batching.time", SimpleNamespace(perf_counter=clock, monotonic=time.monotonic))

    async def scenario(made: Batcher[int, int]) -> None:
        nonlocal ahead
        running = await occupy(made, engine, ())
        ahead = 1000.0  # the only batch so far takes longer than the next deadline
        engine.release()
        ((_, timing),) = await asyncio.gather(*running)
        assert timing.ran > 1000
        future = asyncio.get_running_loop().create_future()
        made.submit(1, future, time.monotonic() + 100)
        await engine.wait_started()
        engine.release()
        assert (await future)[0] == 10

    with batcher(engine) as made:
        asyncio.run(scenario(made))


def test_what_is_unanswered_and_what_runs_longest_can_be_asked() -> None:
    engine = GatedEngine()

    async def scenario(made: Batcher[int, int]) -> None:
        assert (made.unanswered, made.oldest) == (0, None)
        tasks = await occupy(made, engine, range(1, 7))
        first = made.oldest
        assert first is not None
        assert (made.unanswered, first.items) == (7, 1)
        engine.release()
        await engine.wait_started()
        second = made.oldest
        assert second is not None
        assert (made.unanswered, second.items) == (6, 4)
        assert second.number != first.number
        engine.release(2)
        await gather(*tasks)
        assert (made.unanswered, made.oldest) == (0, None)

    with batcher(engine) as made:
        asyncio.run(scenario(made))


class Weighty:
    """An item that takes memory."""


def test_a_lane_that_waits_holds_nothing_of_its_last_batch() -> None:
    items = [Weighty(), Weighty()]
    seen = [weakref.ref(item) for item in items]

    async def scenario(made: Batcher[Weighty, None]) -> None:
        ran, too_late = (asyncio.get_running_loop().create_future() for _ in range(2))
        made.submit(items.pop(), ran)
        await ran
        made.submit(items.pop(), too_late, deadline=time.monotonic() - 1)
        with pytest.raises(Expired):
            await too_late
        await async_until(lambda: [item() for item in seen] == [None, None])

    made: Batcher[Weighty, None] = Batcher(lambda items, alone: [None] * len(items), sizes=ExactSizes([1]))
    asyncio.run(scenario(made))
    made.close()


def test_a_batch_that_hangs_is_the_oldest_however_much_the_other_lanes_do() -> None:
    """The watchdog looks at the oldest, and ends the process if it stays the same."""
    together, stuck = threading.Event(), threading.Event()
    seen: list[Running | None] = []  # by the batches that ran meanwhile

    def run(items: Sequence[int], alone: bool) -> list[int]:
        wait_for = stuck if 1 in items else together
        assert wait_for.wait(TIMEOUT_S)
        seen.append(made.oldest)
        return [10 * item for item in items]

    async def scenario() -> None:
        tasks = [asyncio.create_task(submit(made, 0))]
        await async_until(lambda: made.oldest is not None)
        tasks += [asyncio.create_task(submit(made, item)) for item in (1, 2)]  # which then share the lanes
        await async_until(lambda: len(made._queue) == 2)
        together.set()
        assert await gather(tasks[0], tasks[2]) == [0, 20]
        hanging = made.oldest
        seen.clear()
        for item in range(3, 20):
            assert await gather(submit(made, item)) == [10 * item]
        assert seen == [hanging] * 17
        stuck.set()
        assert await gather(tasks[1]) == [10]

    with batcher(run, lanes=2) as made:
        asyncio.run(scenario())


def test_the_rate_is_measured_only_while_more_items_wait() -> None:
    engine = GatedEngine()

    async def scenario(made: Batcher[int, int]) -> None:
        for item in range(3):  # arrivals, not the engine, decide how fast these leave
            engine.release()
            await gather(submit(made, item))
            await engine.wait_started()
        assert made.drain_rate.per_second == 1e9
        tasks = await occupy(made, engine, range(1, 7))
        engine.release(3)
        await gather(*tasks)
        assert made.drain_rate.per_second < 1e9

    made: Batcher[int, int] = Batcher(engine, sizes=ExactSizes((1, 2, 4)), expected_rate=1e9)
    asyncio.run(scenario(made))
    made.close()


def test_a_rate_that_a_pause_has_pulled_down_rises_again_without_a_backlog() -> None:
    async def scenario(made: Batcher[int, int]) -> None:
        made.drain_rate.record(1, 0.0, 1000.0)
        assert made.drain_rate.per_second == 0.001
        await submit(made, 1)
        assert made.drain_rate.per_second > 0.1

    with batcher(lambda items, alone: list(items)) as made:
        asyncio.run(scenario(made))
