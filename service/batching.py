"""Dynamic batching: when the engine frees, take what waits.

There are no timers and no polling. A thread for each lane of the engine sleeps until an item is queued, takes its share
of the queue, runs it, and looks again. Meanwhile the next batch gathers. The load decides how large a batch is, and a
lone request never waits: it even has all lanes to itself. This module knows no ONNX: it is handed a function.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import math
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Generic, NamedTuple, TypeVar

from service.batch_sizes import Sizes
from service.rates import DrainRate
from service.tracing.traces import NO_MARK

log = logging.getLogger(__name__)

Item = TypeVar("Item")
Result = TypeVar("Result")


class BatchTiming(NamedTuple):
    """How long one item waited and ran."""

    queued: float  # seconds between `submit` and the start of its batch
    ran: float  # seconds that its batch took
    batch_size: int
    started: float = 0.0  # when its batch began, as of `time.perf_counter`; on Linux the same in all processes
    batch: bytes = NO_MARK  # of the batch's span in traces


class Closed(Exception):
    """The batcher has been closed."""


class Expired(Exception):
    """The item's deadline had come before its batch could end, so it was not computed."""


class Running(NamedTuple):
    """The batch that has run longest."""

    number: int  # no other batch has it
    items: int


class Ran(NamedTuple, Generic[Item]):
    """A batch that has run."""

    items: Sequence[Item]
    started: float  # as of `time.perf_counter`
    seconds: float
    failed: bool  # as a whole


@dataclass(slots=True)
class _Queued(Generic[Item, Result]):
    item: Item
    # The future travels with the item. In a table by id, a client that leaves could strand its batch-mates.
    future: asyncio.Future[tuple[Result, BatchTiming]]
    deadline: float  # as `time.monotonic`
    submitted: float = field(default_factory=time.perf_counter)


class Batcher(Generic[Item, Result]):
    """Runs items in batches on threads of its own.

    Args:
        run: called on the batcher's threads with a batch, and with whether no other batch runs at the same time.
            Returns one result for each item, in order; an exception as a result fails that item alone.
        sizes: chooses batch sizes.
        lanes: how many batches run at once.
        prepare: called on every lane's thread before the constructor returns. What it raises, the constructor raises.
        expected_rate: items per second, until it has been measured; 0 if nothing is known.
        shortest: seconds that any batch takes at least: an item whose deadline comes sooner is not computed. Not learnt
            from batches: if the first ones were slow, items with short deadlines would never run again.
        max_wait: seconds that a batch that is not full waits for more items, counted from its first; 0 never waits.
        on_batch: called with every batch that has run, on the batcher's threads, before its items get their results;
            returns what their `BatchTiming.batch` says.

    Attributes:
        drain_rate: how fast items leave.
    """

    def __init__(
        self,
        run: Callable[[Sequence[Item], bool], Sequence[Result | Exception]],
        *,
        sizes: Sizes,
        lanes: int = 1,
        max_wait: float = 0.0,
        expected_rate: float = 0.0,
        shortest: float = 0.0,
        prepare: Callable[[], None] = lambda: None,
        on_batch: Callable[[Ran[Item]], bytes] = lambda ran: NO_MARK,
        name: str = "batcher",
    ) -> None:
        self._run = run
        self._sizes = sizes
        self._lanes = lanes
        self._max_wait = max_wait
        self._on_batch = on_batch
        self._queue: deque[_Queued[Item, Result]] = deque()
        self._unanswered = 0  # items that are queued or run; read without the lock, for every request
        self._changed = threading.Condition()
        self._numbers = itertools.count()
        self._running: dict[int, int] = {}  # batches: number -> items, the oldest first
        self._alone = False  # whether the running batch has been promised the whole engine
        self._closed = False
        self._shortest = shortest
        self.drain_rate = DrainRate(expected_rate)
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

    @property
    def unanswered(self) -> int:
        """Items that are queued or run. From any thread."""
        return self._unanswered

    @property
    def oldest(self) -> Running | None:
        """The batch that has run longest; None if none runs. From any thread."""
        with self._changed:
            return next((Running(*batch) for batch in self._running.items()), None)

    def submit(
        self, item: Item, future: asyncio.Future[tuple[Result, BatchTiming]], deadline: float = math.inf
    ) -> None:
        """Queues an item; may be called from any thread.

        Args:
            future: receives the result, or the exception of the item or its batch, on its own event loop. Cancelling it
                drops the item if it has not run yet.
            deadline: on the clock of `time.monotonic`. If no batch can end before it, the future gets Expired.

        Raises:
            Closed: the batcher has been closed.
        """
        entry: _Queued[Item, Result] = _Queued(item, future, deadline)
        with self._changed:
            if self._closed:
                raise Closed
            self._queue.append(entry)
            self._unanswered += 1
            self._changed.notify()

    def close(self) -> None:
        """Runs what is queued, then stops the threads. Blocks until both are done."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()
        # What the batcher calls holds the batcher. Without this cycle, an engine is freed at once, not when the garbage
        # collector comes to it.
        self._run = self._on_batch = _no_more

    def _lane(self, prepare: Callable[[], None], prepared: queue.SimpleQueue[BaseException | None]) -> None:
        try:
            prepare()
        except BaseException as error:
            prepared.put(error)
            return
        prepared.put(None)
        while self._run_next():
            pass

    def _run_next(self) -> bool:
        """Runs the next batch of this lane; False once closed. No local name holds a batch while the lane waits."""
        if not (batch := self._take()):
            return False
        number, entries, alone = batch
        started = time.perf_counter()
        items = [entry.item for entry in entries]
        outcome: Sequence[Result | Exception] | BaseException
        try:
            outcome = self._run(items, alone)
            if len(outcome) != len(entries):
                raise RuntimeError(f"{len(outcome)} results for a batch of {len(entries)}")
        except BaseException as error:
            outcome = error
        finished = time.perf_counter()
        with self._changed:
            del self._running[number]
            self._unanswered -= len(entries)
            self._alone = False
            if self._closed:
                self._changed.notify_all()
            elif self._queue:
                self._changed.notify()
            if not isinstance(outcome, BaseException):  # a failed batch says nothing about how fast work drains
                if self._queue and not alone:  # a batch that ran alone had all lanes
                    self.drain_rate.record(len(entries), started, finished)
                else:
                    self.drain_rate.at_least(len(entries), started, finished)
        try:
            mark = self._on_batch(Ran(items, started, finished - started, isinstance(outcome, BaseException)))
        except Exception:  # the items get their results all the same, and the lane lives
            log.exception("a batch of %d was not counted", len(entries))
            mark = NO_MARK
        # One wake-up of the event loop per batch. All items of a server come from one loop.
        _on_loop(entries, _resolve, entries, outcome, started, finished - started, mark)
        return True

    def _take(self) -> tuple[int, list[_Queued[Item, Result]], bool] | None:
        """Waits for the next batch of this lane: its number, its items, and whether it runs alone.

        None when closed and drained.
        """
        with self._changed:
            while True:
                while self._alone or (not self._queue and not self._closed):
                    self._changed.wait()
                if self._queue and self._waited_for_more():
                    continue
                self._drop_unwanted()
                if not self._queue:
                    if self._closed:
                        return None
                    continue
                size = self._sizes.take(len(self._queue), self._lanes - len(self._running))
                entries = [self._queue.popleft() for _ in range(size)]
                self._alone = not self._running and not self._queue
                number = next(self._numbers)
                self._running[number] = size
                if self._queue:
                    self._changed.notify()
                return number, entries, self._alone

    def _drop_unwanted(self) -> None:
        """Drops items whose batch could not end in time, or whose future is done: the client has left, or is told."""
        waiting = [entry for entry in self._queue if not entry.future.done()]
        soonest = time.monotonic() + self._shortest
        if expired := [entry for entry in waiting if entry.deadline < soonest]:
            waiting = [entry for entry in waiting if entry.deadline >= soonest]
            _on_loop(expired, _expire, expired)
        self._unanswered -= len(self._queue) - len(waiting)
        self._queue = deque(waiting)

    def _waited_for_more(self) -> bool:
        """Waits for a fuller batch if there is reason to; if it did, everything may have changed meanwhile."""
        left = self._queue[0].submitted + self._max_wait - time.perf_counter()
        if len(self._queue) >= self._sizes.largest or self._closed or left <= 0:
            return False
        self._changed.wait(left)
        return True


def _no_more(*arguments: Any) -> Any:
    raise Closed  # nothing is queued any more


def _on_loop(entries: Sequence[_Queued[Any, Any]], call: Callable[..., None], *arguments: object) -> None:
    """Calls a function on the event loop that the items' futures belong to."""
    with suppress(RuntimeError):  # the loop is closed: nobody waits any more
        entries[0].future.get_loop().call_soon_threadsafe(call, *arguments)


def _expire(entries: Sequence[_Queued[Any, Any]]) -> None:
    for entry in entries:
        if not entry.future.done():
            entry.future.set_exception(Expired())


def _resolve(
    entries: list[_Queued[Item, Result]],
    outcome: Sequence[Result | Exception] | BaseException,
    started: float,
    ran: float,
    mark: bytes,
) -> None:
    for position, entry in enumerate(entries):
        if entry.future.done():  # cancelled: the client has left
            continue
        result = outcome if isinstance(outcome, BaseException) else outcome[position]
        if isinstance(result, BaseException):
            entry.future.set_exception(result)
        else:
            entry.future.set_result((result, BatchTiming(started - entry.submitted, ran, len(entries), started, mark)))
