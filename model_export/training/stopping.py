"""Stopping a run by SIGTERM or Ctrl-C."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from model_export.training.distributed import Processes

AGREE_EVERY = 10  # steps


class Stopped(Exception):
    """The run was asked to stop and has been saved; it can be resumed."""

    def __init__(self, signum: int, step: int) -> None:
        super().__init__(f"stopped by {signal.Signals(signum).name} after step {step}")
        self.signum = signum
        self.step = step


class StopSignal:
    """SIGTERM and Ctrl-C ask a run to stop after the step in progress; a second Ctrl-C interrupts it at once."""

    def __init__(self, processes: Processes) -> None:
        self.processes = processes
        self.alone = processes.world == 1
        self.signum: int | None = None  # once one has been received

    @contextmanager
    def caught(self) -> Iterator[None]:
        """Handles the signals in this context; the handlers before are put back at its end."""

        def handle(signum: int, _frame: FrameType | None) -> None:
            self.signum = signum
            if self.alone:  # under torchrun, one Ctrl-C arrives twice: from the terminal, and passed on by torchrun
                signal.signal(signal.SIGINT, signal.default_int_handler)

        previous = {signum: signal.signal(signum, handle) for signum in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for signum, handler in previous.items():
                signal.signal(signum, handler)
            self.signum = None  # one that came after the last step has nothing more to stop

    @property
    def immediate(self) -> bool:
        """Whether the run can stop right now: a signal has come, and no other process has to agree on a step."""
        return self.signum is not None and self.alone

    def agreed(self, step: int, save_due: bool) -> tuple[bool, bool]:
        """Whether to stop and whether to save, the same in all processes; these exchange votes every ten steps."""
        stop = self.signum is not None
        if self.alone:
            return stop, save_due
        if step % AGREE_EVERY:
            return False, False
        stop_votes, save_votes = self.processes.total(stop, save_due)
        return stop_votes > 0, save_votes > 0
