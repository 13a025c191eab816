"""From a call to its result: which request to send, what its answer means, and when to try again.

Does no I/O. `exchange` is a generator: it yields the next step, and is sent what came of it. `Client` and `AsyncClient`
take the steps, each in its own way, and know no rules.
"""

from __future__ import annotations

import math
import os
import random
import ssl
import time
from collections.abc import Generator
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import NamedTuple, TypeVar

import httpx

from service.client.calls import REQUEST_ID, Answer, Call
from service.client.errors import ConnectionFailed, DeadlineMissed, Failed, Problem, Refused, ResnetError, Unavailable

T = TypeVar("T")

TIMEOUT_HEADER = "X-Request-Timeout-Ms"
MOST_MILLISECONDS = 999_999_999  # that the service reads
CONNECT_S = 10.0  # a host that takes longer is not there: the rest of the time is for another try
FIRST_WAIT_S = 0.2  # at most, before the second try; twice as long before each further one
MOST_WAIT_S = 10.0
RETRIED_STATUSES = (429, 503)
# The others are the caller's fault or will be the same again: a proxy's refusal, a header that cannot be sent.
RETRIED_ERRORS = (httpx.NetworkError, httpx.ConnectTimeout, httpx.RemoteProtocolError)
MOST_CHARACTERS = 200  # of an answer that is not the service's, in an error


class Deadline:
    """The end of a call, all its tries and waits together."""

    def __init__(self, seconds: float) -> None:
        """Raises ValueError unless `seconds` is above 0. It may be infinite."""
        if not seconds > 0:
            raise ValueError(f"a deadline is a number of seconds above 0, not {seconds}")
        self.seconds = seconds
        self._at = time.monotonic() + seconds

    @property
    def left(self) -> float:
        """Seconds; 0 or less if it has passed."""
        return self._at - time.monotonic()


class Send(NamedTuple):
    """Send the call with these headers. Send back an `Answer`, or `Broken` at the latest after `seconds`."""

    headers: dict[str, str]
    seconds: float

    @property
    def timeout(self) -> httpx.Timeout:
        """For httpx, which measures each operation on its own."""
        seconds = None if self.seconds == math.inf else self.seconds
        return httpx.Timeout(seconds, connect=min(self.seconds, CONNECT_S))


class Wait(NamedTuple):
    """Wait, and send back None."""

    seconds: float


class Broken(NamedTuple):
    """No whole answer.

    Attributes:
        error: an `httpx.RequestError`, or a TimeoutError if the time is over.
        answered: whether a part of the answer had come.
    """

    error: Exception
    answered: bool = False


def exchange(call: Call[T], retries: int, deadline: Deadline) -> Generator[Send | Wait, Answer | Broken | None, T]:
    """
    Raises:
        ResnetError
    """
    request_id = os.urandom(16).hex()
    tries = 0
    while True:
        if deadline.left <= 0:
            raise _late(deadline, request_id)
        came = yield Send(_headers(call, request_id, deadline.left), deadline.left)
        assert came is not None
        tries += 1
        if isinstance(came, Answer) and came.status in call.statuses:
            return _read(call, came, request_id)
        error = _error(came, deadline, request_id)
        wait = _wait(came, tries)
        if wait is None or tries > retries or wait >= deadline.left:
            raise error from (came.error if isinstance(came, Broken) else None)
        yield Wait(wait)


def _headers(call: Call[T], request_id: str, left: float) -> dict[str, str]:
    headers = {REQUEST_ID: request_id}
    if 1000 * left <= MOST_MILLISECONDS:
        headers[TIMEOUT_HEADER] = str(max(1, int(1000 * left)))
    if call.image is not None:
        headers["Content-Type"] = "application/octet-stream"  # the service goes by the bytes
    return headers


def _read(call: Call[T], answer: Answer, request_id: str) -> T:
    try:
        return call.read(answer)
    except (KeyError, TypeError, ValueError) as error:
        problem = _problem(answer)
        message = f"{call.path} was answered by something else than the service: {problem.detail}"
        raise Failed(message, problem, answer.request_id or request_id) from error


def _error(came: Answer | Broken, deadline: Deadline, request_id: str) -> ResnetError:
    if isinstance(came, Broken):
        late = isinstance(came.error, TimeoutError | httpx.TimeoutException)
        if late and not isinstance(came.error, httpx.ConnectTimeout):
            return _late(deadline, request_id)
        return ConnectionFailed(f"no answer: {came.error or type(came.error).__name__}", None, request_id)
    problem = _problem(came)
    kind: type[ResnetError] = Failed
    if came.status in RETRIED_STATUSES:
        kind = Unavailable
    elif came.status == 504:
        kind = DeadlineMissed
    elif 400 <= came.status < 500:
        kind = Refused
    return kind(str(problem), problem, problem.request_id or request_id)


def _late(deadline: Deadline, request_id: str) -> DeadlineMissed:
    return DeadlineMissed(f"no answer within {deadline.seconds:g} s", None, request_id)


def _problem(answer: Answer) -> Problem:
    """What the answer says, or what its status says if it is not the service's."""
    try:
        return Problem.read(answer.document)
    except (AttributeError, KeyError, TypeError, ValueError):
        said = answer.content[:MOST_CHARACTERS].decode(errors="replace")
        if answer.status // 100 == 3:
            said = f"It leads to {answer.headers.get('Location', 'nowhere')}: give the client that address."
        return Problem.of_status(answer.status, said)


def _wait(came: Answer | Broken, tries: int) -> float | None:
    """Seconds until the next try; None if there shall be none."""
    longest = min(MOST_WAIT_S, FIRST_WAIT_S * 2 ** (tries - 1))
    jitter = random.uniform(longest / 2, longest)  # clients that were refused together do not come back together
    if isinstance(came, Answer):
        return _retry_after(came) + jitter if came.status in RETRIED_STATUSES else None
    repeated = isinstance(came.error, RETRIED_ERRORS) and not came.answered and not _distrusted(came.error)
    return jitter if repeated else None


def _distrusted(error: BaseException | None) -> bool:
    """Whether the server's certificate is the reason."""
    while error is not None and not isinstance(error, ssl.SSLCertVerificationError):
        error = error.__cause__ or error.__context__
    return error is not None


def _retry_after(answer: Answer) -> float:
    """Seconds, from the header (RFC 9110, section 10.2.3); 0 without a readable one."""
    value = answer.headers.get("Retry-After", "")
    if value.isdecimal():
        return float(value)
    try:
        at = parsedate_to_datetime(value)
    except ValueError:
        return 0
    return max(0.0, (at.replace(tzinfo=at.tzinfo or UTC) - datetime.now(UTC)).total_seconds())
