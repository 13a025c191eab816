"""What a run costs, by a clock that stands still otherwise."""

from __future__ import annotations

import pytest

from benchmarks.timing import cost


def test_a_cost_is_a_mean_and_warm_up_runs_do_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    took = iter([100.0, 1.0, 2.0, 3.0])
    now = 0.0

    def step() -> None:
        nonlocal now
        now += next(took)

    monkeypatch.setattr("time.perf_counter", lambda: now)
    monkeypatch.setattr("time.process_time", lambda: 2 * now)
    assert cost(step, 6) == (4.0, 2.0)


def test_at_least_one_run_counts() -> None:
    assert cost(lambda: None, 0).wall_s > 0
