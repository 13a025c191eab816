"""How fast work leaves."""

from __future__ import annotations

import pytest

from service.rates import DrainRate


def test_the_drain_rate_follows_the_batches() -> None:
    rate = DrainRate()
    assert rate.per_second == 0
    rate.record(8, 5.0, 5.1)
    assert rate.per_second == pytest.approx(80)
    for batch in range(100):
        rate.record(8, 10 + batch, 10 + batch + 0.2)
    assert rate.per_second == pytest.approx(40, rel=0.01)


def test_the_drain_rate_counts_the_time_of_overlapping_batches_once() -> None:
    rate = DrainRate()
    for batch in range(100):  # two lanes, 0.2 s a batch, one finishes every 0.1 s
        rate.record(8, 0.1 * batch, 0.1 * batch + 0.2)
    assert rate.per_second == pytest.approx(80, rel=0.01)


@pytest.mark.parametrize("late", [0.001, 1e-6, -1e-6])
def test_lanes_that_finish_together_do_not_distort_the_drain_rate(late: float) -> None:
    """`late` is negative if the lane that finished first records its batch second."""
    rate = DrainRate()
    for batch in range(200):  # two lanes side by side, 0.2 s a batch
        rate.record(8, 0.2 * batch, 0.2 * batch + 0.2)
        rate.record(8, 0.2 * batch, 0.2 * batch + 0.2 + late)
    assert rate.per_second == pytest.approx(80, rel=0.2)


def test_a_batch_shows_what_is_possible_at_least() -> None:
    rate = DrainRate(expected=10)
    rate.at_least(1, 0.0, 1.0)
    assert rate.per_second == 10
    rate.at_least(8, 1.0, 1.2)
    assert rate.per_second == pytest.approx(40)
    rate.at_least(8, 2.0, 3.0)
    assert rate.per_second == pytest.approx(40)


def test_how_long_items_take() -> None:
    assert DrainRate().seconds_for(10) == 0
    assert DrainRate(expected=4).seconds_for(10) == 2.5
