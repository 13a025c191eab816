"""Dynamic batching: when the engine frees, take what waits.

There are no timers and no polling: one thread owns the engine, sleeps until an item is queued, takes as many as wait
(up to `max_batch`), runs them, and looks again. While it runs, the next batch gathers by itself. A batch is therefore
as large as the load makes it, and a lone request is never held back. This module knows no ONNX: it is handed `run`.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Generic, NamedTuple, TypeVar

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
        self.per_second = 0.0

    def record(self, items: int, seconds: float) -> None:
        rate = items / max(seconds, 1e-9)
        self.per_second = rate if not self.per_second else self.per_second + self.WEIGHT * (rate - self.per_second)


class Batcher(Generic[Item, Result]):
    """Runs items in batches on a thread of its own.

    Args:
        run: takes 1 to `max_batch` items and returns as many results, in order. Called on the batcher's thread only.
        max_batch: the largest batch formed.
        max_wait: seconds a batch that is not full waits for more items, counted from its first; 0 never waits.
        on_batch: told the size of every batch that ran, on the batcher's thread.
    """

    def __init__(
        self,
        run: Callable[[Sequence[Item]], Sequence[Result]],
        *,
        max_batch: int,
        max_wait: float = 0.0,
        on_batch: Callable[[int], None] = lambda size: None,
        name: str = "batcher",
    ) -> None:
        self._run = run
        self._max_batch = max_batch
        self._max_wait = max_wait
        self._on_batch = on_batch
        self._jobs: deque[_Job[Item, Result]] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self.drain_rate = DrainRate()
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    def __len__(self) -> int:
        """Items that wait, not counting those that run."""
        return len(self._jobs)

    async def submit(self, item: Item) -> tuple[Result, Timing]:
        """Queues an item and waits for its result. Cancelling the wait drops the item if it has not run yet.

        Raises:
            Closed: the batcher has been closed.
            Exception: whatever `run` raised for the batch the item was in.
        """
        job: _Job[Item, Result] = _Job(item, asyncio.get_running_loop().create_future())
        with self._changed:
            if self._closed:
                raise Closed
            self._jobs.append(job)
            self._changed.notify()
        return await job.future

    def close(self) -> None:
        """Runs what is queued, then stops the thread. Blocks until both are done."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _work(self) -> None:
        while batch := self._take():
            started = time.perf_counter()
            outcome: Sequence[Result] | BaseException
            try:
                outcome = self._run([job.item for job in batch])
                if len(outcome) != len(batch):
                    raise RuntimeError(f"{len(outcome)} results for a batch of {len(batch)}")
            except BaseException as error:
                log.exception("a batch of %d failed", len(batch))
                outcome = error
            ran = time.perf_counter() - started
            if not isinstance(outcome, BaseException):  # a failure is quick, and says nothing of how fast work drains
                self.drain_rate.record(len(batch), ran)
                self._on_batch(len(batch))
            # One wake-up of the event loop for the whole batch. All items of a server come from one loop.
            batch[0].future.get_loop().call_soon_threadsafe(_resolve, batch, outcome, started, ran)

    def _take(self) -> list[_Job[Item, Result]]:
        """The next batch, once there is one; empty when closed and drained."""
        with self._changed:
            while True:
                while not self._jobs and not self._closed:
                    self._changed.wait()
                if self._max_wait and self._jobs:
                    until = self._jobs[0].submitted + self._max_wait
                    while len(self._jobs) < self._max_batch and not self._closed:
                        if (left := until - time.perf_counter()) <= 0:
                            break
                        self._changed.wait(left)
                batch: list[_Job[Item, Result]] = []
                while self._jobs and len(batch) < self._max_batch:
                    job = self._jobs.popleft()
                    if not job.future.cancelled():  # the client has gone: do not compute for nobody
                        batch.append(job)
                if batch or self._closed:
                    return batch


def _resolve(
    batch: list[_Job[Item, Result]], outcome: Sequence[Result] | BaseException, started: float, ran: float
) -> None:
    for position, job in enumerate(batch):
        if job.future.cancelled():
            continue
        if isinstance(outcome, BaseException):
            job.future.set_exception(outcome)
        else:
            job.future.set_result((outcome[position], Timing(started - job.submitted, ran, len(batch))))
