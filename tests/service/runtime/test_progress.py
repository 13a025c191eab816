"""Bars on a terminal, lines elsewhere."""

from __future__ import annotations

import io
import logging

import pytest

from service.runtime import progress as progress_module
from service.runtime.progress import Progress


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """`clock[0]` is the current time."""
    now = [100.0]
    monkeypatch.setattr(progress_module.time, "monotonic", lambda: now[0])
    return now


def test_without_a_terminal_lines_come_every_ten_seconds(caplog: pytest.LogCaptureFixture, clock: list[float]) -> None:
    with caplog.at_level(logging.INFO, logger="service.runtime.progress"):
        with Progress("training", 100, unit="image") as progress:
            for _ in range(10):
                clock[0] += 3
                progress.advance(10, loss=0.5)
            assert progress.rate == pytest.approx(100 / 30)
        assert caplog.messages == [
            "training: 10 of 100 images in 3 s, 27 s left, loss 0.500",
            "training: 50 of 100 images in 15 s, 15 s left, loss 0.500",
            "training: 90 of 100 images in 27 s, 3 s left, loss 0.500",
            "training: 100 of 100 images in 30 s, 0 s left, loss 0.500",
        ]


def test_work_done_before_does_not_count_towards_the_rate(caplog: pytest.LogCaptureFixture, clock: list[float]) -> None:
    with caplog.at_level(logging.INFO, logger="service.runtime.progress"):
        progress = Progress("net.pth", 100_000_000, unit="B", initial=50_000_000)
        clock[0] += 10
        progress.advance(25_000_000)
    assert caplog.messages == ["net.pth: 75 of 100 MB in 10 s, 10 s left"]


def test_on_a_terminal_there_is_a_bar(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = io.StringIO()
    terminal.isatty = lambda: True  # type: ignore[method-assign]
    monkeypatch.setattr("sys.stderr", terminal)
    with caplog.at_level(logging.INFO), Progress("drawing", 4) as progress:
        progress.advance(4)
    assert "4/4" in terminal.getvalue()
    assert not caplog.messages


def test_it_can_be_silent(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO), Progress("drawing", 4, shown=False) as progress:
        progress.advance(4)
    assert not caplog.messages
