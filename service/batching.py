"""Dynamic batching: when the engine frees, take what waits.

There are no timers and no polling. A thread for each lane of the engine sleeps until an item is queued, takes its share
of the queue, runs it, and looks again. Meanwhile the next batch gathers. The load decides how large a batch is, and a
lone request never waits: it even has all lanes to itself. This module knows no ONNX: it is handed a function.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Generic, NamedTuple, Protocol, TypeVar

log = logging.getLogger(__name__)

Item = TypeVar("Item")
Result = TypeVar("Result")


class BatchTiming(NamedTuple):
    """How long one item waited and ran."""

    queued: float  # seconds between `submit` and the start of its batch
    ran: float  # seconds that its batch took
    batch_size: int


class Closed(Exception):
    """The batcher has been closed."""


class Sizes(Protocol):
    """How many items a batch takes."""

    @property
    def largest(self) -> int:
        """No batch is larger."""

    def take(self, waiting: int, lanes: int) -> int:
        """How many of `waiting` items the next batch takes while `lanes` lanes are free; at least one."""


class ExactSizes:
    """Batches of exactly these sizes. The free lanes share the queue, so that all finish soon.

    Args:
        sizes: ascending from 1.
    """

    def __init__(self, sizes: Sequence[int]) -> None:
        self._sizes = tuple(sizes)
        self.largest = self._sizes[-1]

    def take(self, waiting: int, lanes: int) -> int:
        share = -(-waiting // lanes)
        return max(size for size in self._sizes if size <= share)


class PaddedSizes:
    """Batches of any size, each padded to the next larger of these. Splits the queue for the least time in all.

    Unlike on a CPU, lanes do not share the queue: one GPU computes for all of them.

    Args:
        seconds: time that each size takes, by size, ascending from 1.
    """

    def __init__(self, seconds: Mapping[int, float]) -> None:
        self.largest = max(seconds)

        def batch(items: int) -> float:
            return seconds[min(size for size in seconds if size >= items)]

        # For n items: the least total time, and how many items the first batch takes. Rounded to microseconds; ties go
        # to the larger first batch, which answers more clients first.
        fastest: list[tuple[float, int]] = [(0.0, 0)]
        for waiting in range(1, self.largest + 1):
            firsts = {min(waiting, size) for size in seconds}
            total, first = min((round(batch(taken) + fastest[waiting - taken][0], 6), -taken) for taken in firsts)
            fastest.append((total, -first))
        self._take = [first for _, first in fastest]

    def take(self, waiting: int, lanes: int) -> int:
        return self._take[min(waiting, self.largest)]


@dataclass(slots=True)
class _Queued(Generic[Item, Result]):
    item: Item
    # The future travels with the item. In a table by id, a client that leaves could strand its batch-mates.
    future: asyncio.Future[tuple[Result, BatchTiming]]
    submitted: float = field(default_factory=time.perf_counter)


class DrainRate:
    """Items per second that leave while there is work, smoothed over about ten batches; 0 before the first."""

    WEIGHT = 0.1

    def __init__(self) -> None:
        self._items = 0.0
        self._seconds = 0.0
        self._last = 0.0

    @property
    def per_second(self) -> float:
        return self._items / self._seconds if self._seconds else 0.0

    def record(self, items: int, started: float, finished: float) -> None:
        """Counts overlapping batches once: from the end of the previous batch, not from their own start."""
        seconds = max(finished - max(started, self._last), 0.0)
        self._last = max(finished, self._last)
        # Smoothed separately: two lanes that finish together would give an unbounded rate.
        weight = self.WEIGHT if self._seconds else 1.0
        self._items += weight * (items - self._items)
        self._seconds += weight * (seconds - self._seconds)


class Batcher(Generic[Item, Result]):
    """Runs items in batches on threads of its own.

    Args:
        run: called on the batcher's threads with a batch, and with whether no other batch runs at the same time.
            Returns one result for each item, in order; an exception as a result fails that item alone.
        sizes: chooses batch sizes.
        lanes: how many batches run at once.
        prepare: called on every lane's thread before the constructor returns. What it raises, the constructor raises.
        max_wait: seconds that a batch that is not full waits for more items, counted from its first; 0 never waits.
        on_batch: called with the size of every batch that ran, on the batcher's threads.
    """

    def __init__(
        self,
        run: Callable[[Sequence[Item], bool], Sequence[Result | Exception]],
        *,
        sizes: Sizes,
        lanes: int = 1,
        max_wait: float = 0.0,
        prepare: Callable[[], None] = lambda: None,
        on_batch: Callable[[int], None] = lambda size: None,
        name: str = "batcher",
    ) -> None:
        self._run = run
        self._sizes = sizes
        self._lanes = lanes
        self._max_wait = max_wait
        self._on_batch = on_batch
        self._queue: deque[_Queued[Item, Result]] = deque()
        self._changed = threading.Condition()
        self._running = 0  # batches
        self._alone = False  # whether the running batch has been promised the whole engine
        self._closed = False
        self.drain_rate = DrainRate()
        prepared: queue.SimpleQueue[BaseException | None] = queue.SimpleQueue()
        self._threads = [
            threading.Thread(target=self._lane, args=(prepare, prepared), name=f"{name}-{lane}", daemon=True)
            for lane in range(lanes)
        ]
        for thread in self._threads:
            thread.start()
        failures = [failure for _ in self._threads if (failure := prepared.get())]
        if failures:
            self.close()
            raise failures[0]

    def __len__(self) -> int:
        """Queued items, without those that run."""
        return len(self._queue)

    def submit(self, item: Item, future: asyncio.Future[tuple[Result, BatchTiming]]) -> None:
        """Queues an item; may be called from any thread.

        Args:
            future: receives the result, or the exception of the item or its batch, on its own event loop. Cancelling it
                drops the item if it has not run yet.

        Raises:
            Closed: the batcher has been closed.
        """
        entry: _Queued[Item, Result] = _Queued(item, future)
        with self._changed:
            if self._closed:
                raise Closed
            self._queue.append(entry)
            self._changed.notify()

    def close(self) -> None:
        """Runs what is queued, then stops the threads. Blocks until both are done."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    def _lane(self, prepare: Callable[[], None], prepared: queue.SimpleQueue[BaseException | None]) -> None:
        try:
            prepare()
        except BaseException as error:
            prepared.put(error)
            return
        prepared.put(None)
        self._work()

    def _work(self) -> None:
        while batch := self._take():
            entries, alone = batch
            started = time.perf_counter()
            outcome: Sequence[Result | Exception] | BaseException
            try:
                outcome = self._run([entry.item for entry in entries], alone)
                if len(outcome) != len(entries):
                    raise RuntimeError(f"{len(outcome)} results for a batch of {len(entries)}")
            except BaseException as error:
                log.exception("a batch of %d failed", len(entries))
                outcome = error
            finished = time.perf_counter()
            with self._changed:
                self._running -= 1
                self._alone = False
                if self._closed:
                    self._changed.notify_all()
                elif self._queue:
                    self._changed.notify()
                # A failed batch says nothing about how fast work drains.
                if not isinstance(outcome, BaseException):
                    self.drain_rate.record(len(entries), started, finished)
            if not isinstance(outcome, BaseException):
                self._on_batch(len(entries))
            # One wake-up of the event loop per batch. All items of a server come from one loop.
            ran = finished - started
            with suppress(RuntimeError):  # the loop is closed: nobody waits any more
                entries[0].future.get_loop().call_soon_threadsafe(_resolve, entries, outcome, started, ran)

    def _take(self) -> tuple[list[_Queued[Item, Result]], bool] | None:
        """Waits for the next batch of this lane; also returns whether it runs alone. None when closed and drained."""
        with self._changed:
            while True:
                while self._alone or (not self._queue and not self._closed):
                    self._changed.wait()
                if self._queue and self._waited_for_more():
                    continue
                # The client of a cancelled item has left.
                waiting = [entry for entry in self._queue if not entry.future.cancelled()]
                if not waiting:
                    self._queue.clear()
                    if self._closed:
                        return None
                    continue
                size = self._sizes.take(len(waiting), self._lanes - self._running)
                self._queue = deque(waiting[size:])
                self._alone = not self._running and not self._queue
                self._running += 1
                if self._queue:
                    self._changed.notify()
                return waiting[:size], self._alone

    def _waited_for_more(self) -> bool:
        """Waits for a fuller batch if there is reason to; if it did, everything may have changed meanwhile."""
        left = self._queue[0].submitted + self._max_wait - time.perf_counter()
        if len(self._queue) >= self._sizes.largest or self._closed or left <= 0:
            return False
        self._changed.wait(left)
        return True


def _resolve(
    entries: list[_Queued[Item, Result]],
    outcome: Sequence[Result | Exception] | BaseException,
    started: float,
    ran: float,
) -> None:
    for position, entry in enumerate(entries):
        if entry.future.cancelled():
            continue
        result = outcome if isinstance(outcome, BaseException) else outcome[position]
        if isinstance(result, BaseException):
            entry.future.set_exception(result)
        else:
            entry.future.set_result((result, BatchTiming(started - entry.submitted, ran, len(entries))))
