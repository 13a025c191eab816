"""Until when the answer to a request is of use."""

from __future__ import annotations

import time
from typing import NamedTuple

from service.errors import DeadlineMissed


class Deadline(NamedTuple):
    """A moment on the clock of `time.monotonic`, which no change of the wall clock moves.

    All processes of one machine share this clock.
    """

    at: float
    allowed: float  # seconds that the request was given

    @classmethod
    def after(cls, seconds: float) -> Deadline:
        return cls(time.monotonic() + seconds, seconds)

    @property
    def left(self) -> float:
        """Seconds until then; negative if it has passed."""
        return self.at - time.monotonic()

    def missed(self, reason: str) -> DeadlineMissed:
        return DeadlineMissed(timeout_ms=round(1000 * self.allowed), reason=reason)
