"""Dynamic batching: when the engine frees, take what waits.

There are no timers and no polling: a thread for each lane of the engine sleeps until an item is queued, takes its share
of what waits, runs it, and looks again. While it runs, the next batch gathers by itself. A batch is therefore as large
as the load makes it, and a lone request is never held back: it even has all lanes to itself. This module knows no ONNX:
it is handed `run`.
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


class Timing(NamedTuple):
    """Where the time of one item went."""

    queued: float  # seconds between `submit` and the start of its batch
    ran: float  # seconds that its batch took
    batch_size: int


class Closed(Exception):
    """Submitted to a batcher that has been closed."""


class Sizes(Protocol):
    """How many items a batch takes."""

    @property
    def largest(self) -> int:
        """No batch is larger."""

    def take(self, waiting: int, lanes: int) -> int:
        """How many of `waiting` items, at least one, the next batch takes while `lanes` lanes are free."""


class ExactSizes:
    """Batches of these sizes and no others. What waits is shared out among the free lanes, so that all finish soon.

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
    """Batches of any size, which take as long as the next larger one of these: the split that takes least time in all.

    Unlike on a CPU, lanes do not share out what waits: one GPU computes for all of them.

    Args:
        seconds: how long each size takes, by size, ascending from 1.
    """

    def __init__(self, seconds: Mapping[int, float]) -> None:
        self.largest = max(seconds)

        def batch(items: int) -> float:
            return seconds[min(size for size in seconds if size >= items)]

        # Of n items: the least time in all, and how many the first batch takes. To the microsecond; of equals the
        # larger batch, which answers more clients first.
        fastest: list[tuple[float, int]] = [(0.0, 0)]
        for waiting in range(1, self.largest + 1):
            firsts = {min(waiting, size) for size in seconds}
            total, first = min((round(batch(taken) + fastest[waiting - taken][0], 6), -taken) for taken in firsts)
            fastest.append((total, -first))
        self._take = [first for _, first in fastest]

    def take(self, waiting: int, lanes: int) -> int:
        return self._take[min(waiting, self.largest)]


@dataclass(slots=True)
class _Job(Generic[Item, Result]):
    item: Item
    # The future travels with the item: no table of ids in which a departed client could strand its batch-mates.
    future: asyncio.Future[tuple[Result, Timing]]
    submitted: float = field(default_factory=time.perf_counter)


class DrainRate:
    """Items per second that leave while there is work, smoothed over about ten batches; 0 until the first."""

    WEIGHT = 0.1

    def __init__(self) -> None:
        self._items = 0.0
        self._seconds = 0.0
        self._last = 0.0

    @property
    def per_second(self) -> float:
        return self._items / self._seconds if self._seconds else 0.0

    def record(self, items: int, started: float, finished: float) -> None:
        """Of batches that overlap, the time since the one before finished counts, not the time of each."""
        seconds = max(finished - max(started, self._last), 0.0)
        self._last = max(finished, self._last)
        # Smoothed apart from each other: two lanes that finish together would make rates that know no bounds.
        weight = self.WEIGHT if self._seconds else 1.0
        self._items += weight * (items - self._items)
        self._seconds += weight * (seconds - self._seconds)


class Batcher(Generic[Item, Result]):
    """Runs items in batches on threads of its own.

    Args:
        run: takes as many items as `sizes` says, and whether no other batch runs meanwhile; returns as many results, in
            order, or in a result's place the exception that is its item's alone. Called on the batcher's threads only.
        sizes: of batches.
        lanes: how many batches run at once.
        prepare: called on every lane's thread, before the constructor returns. If it raises, the constructor raises
            the same.
        max_wait: seconds a batch that is not full waits for more items, counted from its first; 0 never waits.
        on_batch: told the size of every batch that ran, on a batcher's thread.
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
        self._jobs: deque[_Job[Item, Result]] = deque()
        self._changed = threading.Condition()
        self._running = 0  # batches
        self._alone = False  # whether the one that runs has been promised the whole engine
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
        """Items that wait, not counting those that run."""
        return len(self._jobs)

    def submit(self, item: Item, future: asyncio.Future[tuple[Result, Timing]]) -> None:
        """Queues an item; may be called from any thread.

        Args:
            future: gets the result on its own event loop, or the exception of the item, or of the batch it was in.
                Cancelling it drops the item if it has not run yet.

        Raises:
            Closed: the batcher has been closed.
        """
        job: _Job[Item, Result] = _Job(item, future)
        with self._changed:
            if self._closed:
                raise Closed
            self._jobs.append(job)
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
            started = time.perf_counter()
            outcome: Sequence[Result | Exception] | BaseException
            try:
                outcome = self._run([job.item for job in batch], self._alone)
                if len(outcome) != len(batch):
                    raise RuntimeError(f"{len(outcome)} results for a batch of {len(batch)}")
            except BaseException as error:
                log.exception("a batch of %d failed", len(batch))
                outcome = error
            finished = time.perf_counter()
            with self._changed:
                self._running -= 1
                self._alone = False
                if self._closed:
                    self._changed.notify_all()
                elif self._jobs:
                    self._changed.notify()
                # A failure is quick, and says nothing of how fast work drains.
                if not isinstance(outcome, BaseException):
                    self.drain_rate.record(len(batch), started, finished)
            if not isinstance(outcome, BaseException):
                self._on_batch(len(batch))
            # One wake-up of the event loop for the whole batch. All items of a server come from one loop.
            ran = finished - started
            with suppress(RuntimeError):  # the loop has been closed, and all who waited have gone with it
                batch[0].future.get_loop().call_soon_threadsafe(_resolve, batch, outcome, started, ran)

    def _take(self) -> list[_Job[Item, Result]]:
        """The next batch of this lane, once there is one; empty when closed and drained."""
        with self._changed:
            while True:
                while self._alone or (not self._jobs and not self._closed):
                    self._changed.wait()
                if self._jobs and self._has_waited_for_more():
                    continue
                # The client of a cancelled job has gone: do not compute for nobody.
                waiting = [job for job in self._jobs if not job.future.cancelled()]
                if not waiting:
                    self._jobs.clear()
                    if self._closed:
                        return []
                    continue
                size = self._sizes.take(len(waiting), self._lanes - self._running)
                self._jobs = deque(waiting[size:])
                self._alone = not self._running and not self._jobs
                self._running += 1
                if self._jobs:
                    self._changed.notify()
                return waiting[:size]

    def _has_waited_for_more(self) -> bool:
        """Whether there was a reason to wait for a fuller batch; then everything may have changed meanwhile."""
        left = self._jobs[0].submitted + self._max_wait - time.perf_counter()
        if len(self._jobs) >= self._sizes.largest or self._closed or left <= 0:
            return False
        self._changed.wait(left)
        return True


def _resolve(
    batch: list[_Job[Item, Result]],
    outcome: Sequence[Result | Exception] | BaseException,
    started: float,
    ran: float,
) -> None:
    for position, job in enumerate(batch):
        if job.future.cancelled():
            continue
        result = outcome if isinstance(outcome, BaseException) else outcome[position]
        if isinstance(result, BaseException):
            job.future.set_exception(result)
        else:
            job.future.set_result((result, Timing(started - job.submitted, ran, len(batch))))
