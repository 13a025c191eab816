"""Shows how far a run is, on standard error: one line that changes on a terminal, a new line now and then elsewhere."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TextIO

TERMINAL_EVERY_S = 0.2
LINE_EVERY_S = 30.0  # elsewhere; shorter runs write none


class Progress:
    """Counts rows, and shows the count.

    Attributes:
        done, failed: rows, and those of them without an answer.
    """

    def __init__(
        self, stream: TextIO, *, terminal: bool, every: float, before: int, count: Callable[[], int] | None
    ) -> None:
        """
        Args:
            terminal: whether the stream is one, for the progress alone.
            every: seconds between two looks.
            before: images that earlier runs have done.
            count: how many images there are in all; may take long. None if nobody can tell.
        """
        self._stream = stream
        self._terminal = terminal
        self._every = every
        self._before = before
        self._total: int | None = None
        self._shown = False
        self.done = self.failed = 0
        self._started = time.monotonic()
        self._next = self._started + self._every
        if count and terminal:
            threading.Thread(target=self._count, args=(count,), name="counting", daemon=True).start()

    def add(self, *, failed: bool) -> None:
        """One more row."""
        self.done += 1
        self.failed += failed
        now = time.monotonic()
        if now >= self._next:
            self._next = now + self._every
            self._show()

    def close(self, interrupted: str = "") -> None:
        """Sums up, if that says more than the rows: after progress, failures, an interruption or an earlier run."""
        if self._terminal and self._shown:
            self._stream.write("\r\x1b[K")
        if self._shown or self.failed or self._before or interrupted:
            self._stream.write(f"{interrupted}{self._text()}\n")

    @property
    def seconds(self) -> float:
        return max(time.monotonic() - self._started, 1e-9)

    def _count(self, count: Callable[[], int]) -> None:
        self._total = count()

    def _show(self) -> None:
        self._shown = True
        left = ""
        if self._total is not None and self.done:
            ahead = max(0, self._total - self._before - self.done)
            left = f", {ahead} left: {_duration(ahead * self.seconds / self.done)}"
        self._stream.write(f"\r\x1b[K{self._text()}{left}" if self._terminal else f"{self._text()}{left}\n")
        self._stream.flush()

    def _text(self) -> str:
        before = f" (and {self._before} before)" if self._before else ""
        rate = f"{self.done / self.seconds:.1f} images/s"
        images = "image" if self.done == 1 else "images"
        return f"{self.done} {images}{before} in {_duration(self.seconds)}, {rate}, {self.failed} failed"


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, whole = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {whole:02d} s"
