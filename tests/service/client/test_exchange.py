"""The rules, without a connection. Over real sockets: test_clients.py."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import httpx
import pytest

from service.client import calls
from service.client.calls import Answer
from service.client.errors import ConnectionFailed, DeadlineMissed, Refused, ResnetError, Unavailable
from service.client.exchange import CONNECT_S, FIRST_WAIT_S, MOST_WAIT_S, Broken, Deadline, Send, Wait, exchange

READY = Answer(200, httpx.Headers(), b"")
BUSY = Answer(503, httpx.Headers(), b"")


def busy(retry_after: str) -> Answer:
    return BUSY._replace(headers=httpx.Headers({"Retry-After": retry_after}))


def waits(came: Sequence[Answer | Broken], retries: int = 100, seconds: float = math.inf) -> list[float]:
    """The waits between the tries, if these are their results."""
    call = calls.models()
    steps = exchange(call, retries, Deadline(seconds))
    found: list[float] = []
    step = next(steps)
    for one in came:
        assert isinstance(step, Send)
        try:
            step = steps.send(one)
        except StopIteration:
            break
        assert isinstance(step, Wait)
        found.append(step.seconds)
        step = steps.send(None)
    return found


def test_waits_grow_up_to_a_bound_and_differ() -> None:
    found = waits([BUSY] * 12)
    bounds = [min(MOST_WAIT_S, FIRST_WAIT_S * 2**number) for number in range(12)]
    assert bounds[-1] == MOST_WAIT_S
    for wait, bound in zip(found, bounds, strict=True):
        assert bound / 2 <= wait <= bound
    assert waits([BUSY]) != waits([BUSY])


def test_retry_after_in_seconds_and_as_a_date() -> None:
    (wait,) = waits([busy("7")])
    assert 7 < wait <= 7 + FIRST_WAIT_S
    (wait,) = waits([busy(format_datetime(datetime.now(UTC) + timedelta(seconds=100), usegmt=True))])
    assert 90 < wait < 101


@pytest.mark.parametrize("value", ["", "soon", "-5", "Wed, 21 Oct 2015 07:28:00 GMT", "Wed, 99 Oct 2015 07:28:00 GMT"])
def test_a_retry_after_that_says_nothing(value: str) -> None:
    (wait,) = waits([busy(value)])
    assert wait <= FIRST_WAIT_S


@pytest.mark.parametrize(
    ("came", "error"),
    [
        (BUSY, Unavailable),
        (Broken(httpx.ConnectError("refused")), ConnectionFailed),
        (Broken(httpx.ConnectTimeout("late")), ConnectionFailed),
        (Broken(httpx.ReadError("reset")), ConnectionFailed),
        (Broken(httpx.RemoteProtocolError("closed")), ConnectionFailed),
    ],
)
def test_what_is_tried_again(came: Answer | Broken, error: type[ResnetError]) -> None:
    with pytest.raises(error):
        waits([came] * 4, retries=3)
    assert len(waits([came] * 3, retries=3)) == 3


@pytest.mark.parametrize(
    ("came", "error"),
    [
        (Answer(404, httpx.Headers(), b"nginx"), Refused),
        (Broken(httpx.ReadError("reset"), answered=True), ConnectionFailed),
        (Broken(httpx.ProxyError("403")), ConnectionFailed),
        (Broken(httpx.LocalProtocolError("illegal header")), ConnectionFailed),
        (Broken(httpx.ReadTimeout("late")), DeadlineMissed),
        (Broken(TimeoutError()), DeadlineMissed),
    ],
)
def test_what_is_not(came: Answer | Broken, error: type[ResnetError]) -> None:
    with pytest.raises(error):
        waits([came])


def test_no_wait_that_would_be_in_vain() -> None:
    assert waits([busy("7")], seconds=10)
    with pytest.raises(Unavailable):
        waits([busy("7")], seconds=5)


def test_a_deadline_that_has_passed_before_the_first_try() -> None:
    deadline = Deadline(1e-9)
    with pytest.raises(DeadlineMissed):
        next(exchange(calls.models(), 0, deadline))


def test_a_host_that_is_not_there_does_not_take_the_whole_time() -> None:
    step = next(exchange(calls.models(), 0, Deadline(1000)))
    assert isinstance(step, Send)
    assert step.timeout.connect == CONNECT_S
    assert step.timeout.read is not None
    assert 900 < step.timeout.read <= 1000
    assert Send({}, 2.0).timeout.connect == 2


@pytest.mark.parametrize(("seconds", "header"), [(0.0004, "1"), (1e7, None), (math.inf, None)])
def test_what_is_left_is_sent_on(seconds: float, header: str | None) -> None:
    step = next(exchange(calls.models(), 0, Deadline(seconds)))
    assert isinstance(step, Send)
    assert step.headers.get("X-Request-Timeout-Ms") == header
