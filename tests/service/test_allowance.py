"""Rates and counts of one key, on a clock that the test sets."""

from __future__ import annotations

import pytest

from service.allowance import Allowance
from service.errors import RateLimited, TooManyAtOnce


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def limited(clock: Clock, rate: float | None = None, burst: int | None = None, most: int | None = None) -> Allowance:
    allowance = Allowance("batch", clock)
    allowance.limit(rate, burst, most)
    return allowance


def admitted(allowance: Allowance, requests: int) -> int:
    """How many of these requests, one after the other, are admitted."""
    count = 0
    for _ in range(requests):
        try:
            with allowance:
                count += 1
        except RateLimited:
            pass
    return count


def test_without_limits_everything_is_admitted(clock: Clock) -> None:
    assert admitted(limited(clock), 1000) == 1000


def test_after_the_burst_requests_come_at_the_rate(clock: Clock) -> None:
    allowance = limited(clock, rate=4, burst=6)
    assert admitted(allowance, 20) == 6
    clock.now += 1
    assert admitted(allowance, 20) == 4
    clock.now += 3600
    assert admitted(allowance, 20) == 6  # a long pause saves up one burst


@pytest.mark.parametrize(("rate", "burst"), [(4, 4), (2.5, 3), (0.1, 1)])
def test_the_usual_burst_is_one_seconds_worth(clock: Clock, rate: float, burst: int) -> None:
    assert admitted(limited(clock, rate), 20) == burst


@pytest.mark.parametrize("rate", [0.1, 0.25, 0.3, 7])
def test_retry_after_is_true(clock: Clock, rate: float) -> None:
    allowance = limited(clock, rate, burst=1)
    assert admitted(allowance, 1) == 1
    with pytest.raises(RateLimited) as refused, allowance:
        pass
    seconds = refused.value.members["retry_after"]
    assert isinstance(seconds, int)
    clock.now += seconds - 1
    assert admitted(allowance, 1) == 0  # a second less would be too early (of whole seconds)
    clock.now += 1
    assert admitted(allowance, 1) == 1


def test_requests_at_once_are_counted_until_their_answer(clock: Clock) -> None:
    allowance = limited(clock, most=2)
    with allowance:
        with allowance, pytest.raises(TooManyAtOnce, match="may have 2 requests"), allowance:
            pass
        with allowance:
            pass
    with pytest.raises(KeyError), allowance:
        raise KeyError  # a failed request leaves too
    assert admitted(allowance, 3) == 3


def test_one_too_many_at_once_costs_nothing_of_the_rate(clock: Clock) -> None:
    allowance = limited(clock, rate=2, burst=2, most=1)
    with allowance, pytest.raises(TooManyAtOnce), allowance:
        pass
    assert admitted(allowance, 5) == 1


def test_the_same_limits_again_give_nothing_back(clock: Clock) -> None:
    allowance = limited(clock, rate=2, burst=2)
    assert admitted(allowance, 2) == 2
    allowance.limit(2, 2, None)
    assert admitted(allowance, 2) == 0
    allowance.limit(3, 3, None)
    assert admitted(allowance, 9) == 3
