"""Deadlines."""

from __future__ import annotations

import math
import time

import pytest

from service.deadline import Deadline


def test_a_deadline_does_not_move_with_the_wall_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    deadline = Deadline.after(60)
    monkeypatch.setattr(time, "time", lambda: 0.0)
    assert 50 < deadline.left <= 60


def test_the_earlier_one_counts() -> None:
    soon, late, never = Deadline.after(1), Deadline.after(2), Deadline.after(math.inf)
    assert min(late, soon, never) is soon
    assert never.left == math.inf


def test_a_missed_one_names_what_was_allowed_and_why() -> None:
    fault = Deadline.after(0.25).missed("its body took longer to arrive")
    assert str(fault) == "The limit is 250 ms for the request: its body took longer to arrive."
