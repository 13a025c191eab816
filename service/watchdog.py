"""Ends what has stopped making progress.

A health check that is answered beside a frozen engine lies. The watchdog looks at progress instead: a piece of work
that does not change for too long is hung. How long a batch may take is learnt from those before it.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
import time
from collections.abc import Callable, Hashable, Iterable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

from service.backend import Work
from service.hard_end import last_words

log = logging.getLogger(__name__)

EVENT_LOOP = "the event loop"
TICKS = 20  # looks within the shortest time that counts as hung


class _Stalled(NamedTuple):
    """A piece of work, for how many seconds it has been the same, and the seconds of the longest one that ended."""

    piece: Hashable | None
    seconds: float = 0.0
    longest: float = 0.0


class Watchdog:
    """Looks at what the program is busy with, on a thread of its own.

    It counts only time that it was awake for itself: after the whole machine or container was paused, nothing looks
    hung.
    """

    def __init__(self, timeout: float, work: Callable[[], Iterable[Work]], on_hang: Callable[[Work], None]) -> None:
        """
        Args:
            timeout: seconds without progress; for work that lasts, beyond the longest piece so far.
            work: what there is to watch, now. Called on the watchdog's thread.
            on_hang: called on that thread, once for each part that hangs.
        """
        self._timeout = timeout
        self._interval = timeout / TICKS
        self._work = work
        self._on_hang = on_hang
        self._stalled: dict[tuple[str, int], _Stalled] = {}  # by part and owner
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopped.set()

    def _watch(self) -> None:
        last = time.monotonic()
        while not self._stopped.wait(self._interval):
            now = time.monotonic()
            self.look(min(now - last, 2 * self._interval))
            last = now

    def look(self, elapsed: float) -> None:
        """
        Args:
            elapsed: seconds since the last look that count.
        """
        stalled: dict[tuple[str, int], _Stalled] = {}
        for work in self._work():
            key = work.part, work.owner
            before = self._stalled.get(key, _Stalled(None))
            limit = before.longest + self._timeout
            if work.piece is None or work.piece != before.piece:
                # Counted here, not by the clock: a pause of the machine would make a patient watchdog for ever.
                ended = before.seconds if work.lasts and before.seconds <= limit else 0.0
                stalled[key] = _Stalled(work.piece, longest=max(before.longest, ended))
                continue
            seconds = before.seconds + elapsed
            stalled[key] = before._replace(seconds=seconds)
            if before.seconds <= limit < seconds:
                last_words(log, logging.CRITICAL, "%s has made no progress for %.1f s", work.part, limit)
                self._on_hang(work)
        self._stalled = stalled  # what is not there any more is forgotten


@contextmanager
def watching(timeout: float, work: Callable[[], Iterable[Work]], on_hang: Callable[[Work], None]) -> Iterator[Watchdog]:
    """Watches `work` and the running event loop. Arguments as of `Watchdog`."""
    beats = 0

    async def beat() -> None:
        nonlocal beats
        while True:
            beats += 1
            await asyncio.sleep(timeout / TICKS)

    beating = asyncio.create_task(beat())
    watchdog = Watchdog(timeout, lambda: [*work(), Work(EVENT_LOOP, beats)], on_hang)
    watchdog.start()
    try:
        yield watchdog
    finally:
        watchdog.stop()
        beating.cancel()


def end_process(work: Work) -> None:
    """Ends this process at once: its connections break, and the load balancer sends their requests elsewhere."""
    last_words(log, logging.CRITICAL, "process %d exits: %s hangs", os.getpid(), work.part)
    os._exit(1)
