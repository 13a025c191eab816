"""Calls in another process, which some of them end."""

from __future__ import annotations

import os
import signal
from multiprocessing import Pipe
from pathlib import Path

import pytest

from service.bulk.cluster.alone import Alone, Died, _serve
from tests.support.waiting import until


def called(what: str) -> int:
    """The process that was called."""
    if what == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if what == "raise":
        raise ValueError
    return os.getpid()


def runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"


def test_a_process_takes_calls_until_one_ends_it() -> None:
    alone = Alone(called)
    first = alone("live")
    assert alone("live") == first != os.getpid()
    for fatal in ("die", "raise"):
        with pytest.raises(Died):
            alone(fatal)
    second = alone("live")
    assert second != first
    alone.close()
    until(lambda: not runs(second), 60)


def test_a_caller_that_leaves_during_a_call_ends_the_process_in_silence() -> None:
    here, there = Pipe()
    here.send(())
    with there:
        _serve(there, here.close)
    assert here.closed
