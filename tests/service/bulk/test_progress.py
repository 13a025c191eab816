"""What is shown of a run."""

from __future__ import annotations

import io
import math
from collections.abc import Callable

from service.bulk.progress import Progress, _duration
from tests.support.waiting import until


def progress(*, terminal: bool, every: float, before: int = 0, count: Callable[[], int] | None = None) -> Progress:
    return Progress(io.StringIO(), terminal=terminal, every=every, before=before, count=count)


def text(shown: Progress) -> str:
    stream = shown._stream
    assert isinstance(stream, io.StringIO)
    return stream.getvalue()


def test_a_terminal_shows_what_is_left() -> None:
    shown = progress(terminal=True, every=0, before=10, count=lambda: 14)
    until(lambda: shown._total == 14)
    shown.add(failed=False)
    shown.add(failed=True)
    shown.close()
    first, second, last = text(shown).split("\r\x1b[K")[1:]
    assert first.startswith("1 image (and 10 before) in 0.0 s, ")
    assert ", 3 left: " in first
    assert ", 1 failed, 2 left: " in second
    assert last.startswith("2 images (and 10 before) in 0.0 s, ")
    assert last.endswith(" images/s, 1 failed\n")


def test_elsewhere_there_are_lines() -> None:
    shown = progress(terminal=False, every=0)
    shown.add(failed=False)
    shown.close()
    assert len(text(shown).splitlines()) == 2
    assert "\r" not in text(shown)


def test_a_short_run_without_a_fault_shows_nothing() -> None:
    shown = progress(terminal=False, every=math.inf)
    shown.add(failed=False)
    shown.close()
    assert text(shown) == ""


def test_failures_and_interruptions_are_summed_up() -> None:
    shown = progress(terminal=False, every=math.inf)
    shown.add(failed=True)
    shown.close()
    assert text(shown).endswith("1 failed\n")
    interrupted = progress(terminal=False, every=math.inf)
    interrupted.close("interrupted: ")
    assert text(interrupted).startswith("interrupted: 0 images in ")


def test_a_resumed_run_says_what_earlier_runs_have_done() -> None:
    shown = progress(terminal=False, every=30, before=7)
    shown.close()
    assert text(shown).startswith("0 images (and 7 before) in ")


def test_durations() -> None:
    assert [_duration(seconds) for seconds in (0.04, 59.94, 61, 3599, 90_061)] == [
        *("0.0 s", "59.9 s", "1 min 01 s", "59 min 59 s", "25 h 01 min"),
    ]
