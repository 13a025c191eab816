"""Progress of long work: a bar on a terminal, lines in the log elsewhere."""

from __future__ import annotations

import logging
import sys
import time
from types import TracebackType

from tqdm import tqdm

log = logging.getLogger(__name__)

LINE_EVERY_S = 10.0


class Progress:
    """A bar on a terminal; elsewhere a log line at the first step, every ten seconds and at the end.

    Args:
        task: a name for the work.
        total: number of units; None if unknown.
        unit: what is counted, in the singular ("picture", "B").
        shown: whether to show anything.
        initial: units that were done before.
    """

    def __init__(
        self, task: str, total: int | None, *, unit: str = "picture", shown: bool = True, initial: int = 0
    ) -> None:
        terminal = sys.stderr.isatty()
        self.bar = tqdm(
            desc=task,
            total=total,
            initial=initial,
            unit=unit,
            unit_scale=unit == "B",
            disable=not (shown and terminal),
            dynamic_ncols=True,
        )
        self.task, self.total, self.unit = task, total, unit
        self.logged = shown and not terminal
        self.done = self.initial = initial
        self.figures = ""
        self.started = time.monotonic()
        self.next_line = self.started
        self.last_logged = -1

    def advance(self, units: int = 1, **figures: float) -> None:
        """Counts units as done; `figures` (a loss, an accuracy) are shown beside the count."""
        self.done += units
        self.figures = "".join(f", {name} {value:.3f}" for name, value in figures.items())
        if figures:
            self.bar.set_postfix(figures, refresh=False)
        self.bar.update(units)
        if time.monotonic() >= self.next_line:
            self.next_line = time.monotonic() + LINE_EVERY_S
            self._log()

    @property
    def rate(self) -> float:
        """Units per second since the start."""
        return (self.done - self.initial) / max(time.monotonic() - self.started, 1e-9)

    def close(self) -> None:
        self.bar.close()
        self._log()

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _log(self) -> None:
        if not self.logged or self.done == self.last_logged:
            return
        self.last_logged = self.done
        seconds = time.monotonic() - self.started
        left = f", {(self.total - self.done) / self.rate:.0f} s left" if self.total and self.rate else ""
        log.info("%s: %s in %.0f s%s%s", self.task, self._counted(), seconds, left, self.figures)

    def _counted(self) -> str:
        if self.unit == "B":
            return f"{self.done / 1e6:.0f}" + (f" of {self.total / 1e6:.0f}" if self.total else "") + " MB"
        return f"{self.done}" + (f" of {self.total}" if self.total else "") + f" {self.unit}s"
