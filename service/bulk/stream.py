"""Classifies a stream of sources into rows: in order, with a bounded number of images in flight.

    sources ── a thread ──► readers (threads) ──► classifier ──► rows, in the order of the sources

Memory does not depend on the number of sources: one is taken from the iterable only when a row has left, and files are
read only while those in flight hold less than `MOST_BYTES`.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Protocol

from service.bulk.rows import Answer, Problem, Row

READERS = 8  # files that are read at the same time: storage on a network answers slowly, but many at a time
MOST_BYTES = 256 * 2**20  # of images in flight; each reader may add one image to it


class Unreadable(Exception):
    """A source has no bytes to give: `problem` says why."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.detail)
        self.problem = problem


class Unusable(Exception):
    """There is no such classifier; the message names the fault and the remedy."""


class Ended(Exception):
    """The classifier cannot go on: the message names the fault and the remedy."""


class Source(Protocol):
    """One image, wherever it is."""

    @property
    def name(self) -> str:
        """Names its row."""

    def read(self) -> bytes:
        """The encoded image. On a thread. Raises Unreadable."""


class Classifier(Protocol):
    """What answers: a model in this process, or a server."""

    @property
    def model(self) -> str: ...

    @property
    def version(self) -> int: ...

    @property
    def at_once(self) -> int:
        """Images in flight that keep it busy."""

    async def classify(self, image: bytes) -> Answer:
        """Raises Ended."""


class Stream:
    """One run over some sources. `rows` may be iterated once."""

    def __init__(self, sources: Iterable[Source], classifier: Classifier) -> None:
        self._sources = sources
        self._classifier = classifier
        self._slots = threading.Semaphore(classifier.at_once)
        self._started: asyncio.Queue[asyncio.Task[Row] | None] = asyncio.Queue()
        self._failure: BaseException | None = None
        self._stopping = False
        self._held = 0  # bytes of images in flight
        self._reading = asyncio.Semaphore(READERS)
        self._room = asyncio.Event()
        self._room.set()

    def stop(self) -> None:
        """Takes no further source. What is in flight still becomes rows. On the event loop."""
        if not self._stopping:
            self._stopping = True
            self._started.put_nowait(None)

    async def rows(self) -> AsyncGenerator[Row, None]:
        """A row for each source, in their order.

        Raises:
            Ended: the classifier cannot go on. The rows of all images before that one have come.
            Exception: what iterating over the sources raises, once the rows before it have come.
        """
        self._loop = asyncio.get_running_loop()
        # A daemon: it may wait for a line of a pipe for ever.
        threading.Thread(target=self._take, name="sources", daemon=True).start()
        with ThreadPoolExecutor(READERS, thread_name_prefix="reading") as self._readers:
            try:
                while (task := await self._started.get()) is not None:
                    yield await task
                    self._slots.release()
            finally:
                self._stopping = True
                self._slots.release()  # the thread of the sources sees that it is over
                left = self._unfinished()
                for task in left:
                    task.cancel()
                await asyncio.gather(*left, return_exceptions=True)
        if self._failure:
            raise self._failure

    def _unfinished(self) -> list[asyncio.Task[Row]]:
        left = [self._started.get_nowait() for _ in range(self._started.qsize())]
        return [task for task in left if task]

    def _take(self) -> None:
        """On a thread of its own: takes sources for as long as there are slots."""
        failure: BaseException | None = None
        try:
            for source in self._sources:
                self._slots.acquire()
                if self._stopping:
                    return
                self._loop.call_soon_threadsafe(self._start, source)
        except BaseException as error:
            failure = error
        finally:
            with suppress(RuntimeError):  # the loop is closed: nobody waits any more
                self._loop.call_soon_threadsafe(self._end, failure)

    def _start(self, source: Source) -> None:
        if not self._stopping:
            self._started.put_nowait(self._loop.create_task(self._row(source)))

    def _end(self, failure: BaseException | None) -> None:
        if not self._stopping:
            self._failure = failure
            self.stop()

    async def _row(self, source: Source) -> Row:
        try:
            async with self._reading:
                await self._room.wait()
                data = await self._loop.run_in_executor(self._readers, source.read)
                self._hold(len(data))
        except Unreadable as error:
            answer = Answer(self._classifier.model, self._classifier.version, error.problem.entry())
        else:
            try:
                answer = await self._classifier.classify(data)
            finally:
                self._hold(-len(data))
        return Row(source.name, *answer)

    def _hold(self, size: int) -> None:
        self._held += size
        if self._held < MOST_BYTES:
            self._room.set()
        else:
            self._room.clear()
