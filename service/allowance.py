"""What one API key may still do: a token bucket for its rate, and a count of its requests in the service."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from types import TracebackType

from service.errors import RateLimited, TooManyAtOnce


class Allowance:
    """The limits of one key, and what is used of them. A context manager: one request enters and leaves it.

    Not for several threads.
    """

    def __init__(self, key: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._key = key
        self._clock = clock
        self._running = 0
        self._rate: float | None = None
        self._burst = 0
        self._concurrency: int | None = None
        self._tokens = 0.0
        self._filled_at = clock()

    def limit(self, rate: float | None, burst: int | None, concurrency: int | None) -> None:
        """Sets the limits. What has been used of an unchanged rate stays used.

        Args:
            rate: requests per second; None for any.
            burst: requests that may come at once after a pause; None for one second's worth, at least 1.
            concurrency: requests in the service at once; None for any.
        """
        self._concurrency = concurrency
        burst = burst or math.ceil(rate or 0)
        if (rate, burst) != (self._rate, self._burst):
            self._rate, self._burst, self._tokens = rate, burst, float(burst)

    def __enter__(self) -> Allowance:
        """Admits a request. Raises TooManyAtOnce or RateLimited."""
        if self._concurrency is not None and self._running >= self._concurrency:
            raise TooManyAtOnce(key=self._key, concurrency=self._concurrency)
        if self._rate is not None:
            self._take(self._rate)
        self._running += 1
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._running -= 1

    def _take(self, rate: float) -> None:
        now = self._clock()
        self._tokens = min(self._burst, self._tokens + rate * (now - self._filled_at))
        self._filled_at = now
        if self._tokens < 1:
            # Rounded up to whole seconds (RFC 9110, section 10.2.3): then a token is there.
            seconds = max(1, math.ceil((1 - self._tokens) / rate))
            raise RateLimited(key=self._key, rate=rate, burst=self._burst, retry_after=seconds)
        self._tokens -= 1
