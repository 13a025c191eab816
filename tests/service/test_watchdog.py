"""The watchdog: what counts as progress, and what as a hang."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from service.backend import Work
from service.watchdog import EVENT_LOOP, Watchdog, watching
from tests.support.waiting import async_until, until


class Watched:
    """A watchdog of ten seconds over one part, looked at by hand."""

    def __init__(self, lasts: bool = False) -> None:
        self.piece: int | None = None
        self.hung: list[str] = []
        self.dog = Watchdog(10, lambda: [Work("it", self.piece, lasts)], lambda work: self.hung.append(work.part))

    def pass_seconds(self, seconds: int) -> None:
        for _ in range(seconds):
            self.dog.look(1.0)


def test_a_piece_of_work_that_lasts_too_long_hangs_and_is_told_once() -> None:
    watched = Watched()
    watched.piece = 1
    watched.pass_seconds(11)
    assert watched.hung == []
    watched.pass_seconds(30)
    assert watched.hung == ["it"]


def test_a_log_that_nobody_reads_does_not_keep_a_process_from_ending() -> None:
    """Its event loop, too, is stuck in the log, and holds the lock of it."""
    code = """
import logging, os, threading
from service.backend import Work
from service.watchdog import Watchdog, end_process

os.set_blocking(2, False)
while True:
    try:
        os.write(2, b"x" * 4096)
    except BlockingIOError:
        break
os.set_blocking(2, True)
logging.basicConfig()
threading.Thread(target=lambda: logging.error("stuck"), daemon=True).start()
dog = Watchdog(1.0, lambda: [Work("the engine", 1)], end_process)
while True:
    dog.look(1.0)
"""
    process = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, cwd=Path(__file__).parents[2])
    try:
        assert process.wait(60) == 1
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize(("lasts", "limit"), [(False, 10), (True, 10 + 8)])
def test_what_lasts_may_take_as_long_as_the_longest_so_far_and_the_timeout_on_top(lasts: bool, limit: int) -> None:
    watched = Watched(lasts)
    for piece, seconds in enumerate((4, 9, 1)):  # counted from the look that sees a piece first
        watched.piece = piece
        watched.pass_seconds(seconds)
    watched.piece = None
    watched.pass_seconds(100)
    watched.piece = 99
    watched.pass_seconds(1 + limit)
    assert watched.hung == []
    watched.pass_seconds(1)
    assert watched.hung == ["it"]


def test_a_piece_that_hung_makes_nothing_more_patient() -> None:
    watched = Watched(lasts=True)
    for piece in (1, 2):
        watched.piece = piece
        watched.pass_seconds(12)
    assert watched.hung == ["it", "it"]


def test_parts_of_the_same_name_are_told_apart() -> None:
    """While versions change, two engines have the same name, and one of them gets on with its work."""
    hung: list[int] = []
    pieces = iter(range(1000))
    dog = Watchdog(
        10,
        lambda: [Work("it", "stuck", owner=1), Work("it", next(pieces), owner=2)],
        lambda work: hung.append(work.owner),
    )
    for _ in range(20):
        dog.look(1.0)
    assert hung == [1]


def test_idling_and_progress_are_no_hang() -> None:
    watched = Watched()
    watched.pass_seconds(100)
    for piece in range(20):
        watched.piece = piece
        watched.pass_seconds(9)
    assert watched.hung == []


def test_a_part_that_hangs_again_is_told_again() -> None:
    watched = Watched()
    for piece in (1, 2):
        watched.piece = piece
        watched.pass_seconds(20)
    assert watched.hung == ["it", "it"]


def test_time_in_which_the_watchdog_itself_was_stopped_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a pause of the whole container nothing looks hung."""
    looks: list[float] = []
    dog = Watchdog(2.0, list, lambda work: None)
    monkeypatch.setattr(dog, "look", looks.append)
    times = iter([100.0, 100.1, 4000.0, 4000.1])
    monkeypatch.setattr("service.watchdog.time.monotonic", lambda: next(times))
    monkeypatch.setattr(dog, "_stopped", type("Stopped", (), {"wait": lambda self, seconds: len(looks) == 3})())
    dog._watch()
    assert looks == pytest.approx([0.1, 0.2, 0.1])


def test_an_event_loop_that_does_not_turn_is_seen() -> None:
    hung: list[str] = []

    async def scenario() -> None:
        with watching(0.2, list, lambda work: hung.append(work.part)):
            await async_until(lambda: threading.active_count() > 1)
            until(lambda: hung == [EVENT_LOOP])  # holds the loop

    asyncio.run(scenario())


def test_an_event_loop_that_turns_is_left_alone() -> None:
    hung: list[Work] = []
    looked: list[int] = []

    def work() -> list[Work]:
        looked.append(1)
        return []

    async def scenario() -> None:
        with watching(5.0, work, hung.append):
            await async_until(lambda: len(looked) > 3)

    asyncio.run(scenario())
    assert hung == []
