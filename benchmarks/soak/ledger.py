"""What happened in a soak, and what should not have."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from typing import Any, NamedTuple

MOST_DETAILS = 50  # losses and complaints that are kept in full


class Event(NamedTuple):
    at: float  # seconds since the start
    kind: str


class Ledger:
    """Filled by all parts of a soak, on one event loop.

    Attributes:
        sent: ids of the good clients' requests.
        waiting: ids of those that have no outcome yet.
        answered: ids of those that got an HTTP answer, whatever it was.
        outcomes: of the good clients: `right`, `busy` (503 with Retry-After), `late` (504 to a client with a deadline
            of its own), `lost` (anything else).
        busy: titles of the problems behind 503.
        latencies: seconds of right answers since the last sample.
        losses: what the first lost requests got.
        hostile: statuses by kind of body; None where the connection was closed without an answer.
        strangers: clients that left, dawdled or were idle, by kind.
        faults: those injected; `ended` holds the moments at which they were over.
        restarts: processes that were started again, by what they are.
        complaints: what did not follow a fault as it should, and what happened without one.
    """

    def __init__(self) -> None:
        self._start = time.monotonic()
        self.sent: set[int] = set()
        self.waiting: set[int] = set()
        self.answered: set[int] = set()
        self.outcomes: Counter[str] = Counter(right=0, busy=0, late=0, lost=0)
        self.busy: Counter[str] = Counter()
        self.latencies: list[float] = []
        self.losses: list[dict[str, Any]] = []
        self.hostile: defaultdict[str, Counter[int | None]] = defaultdict(Counter)
        self.strangers: Counter[str] = Counter()
        self.faults: list[Event] = []
        self.ended: list[float] = []
        self.restarts: Counter[str] = Counter()
        self.complaints: list[str] = []

    @property
    def now(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self._start

    def send(self) -> int:
        """The id of a good client's next request."""
        number = len(self.sent)
        self.sent.add(number)
        self.waiting.add(number)
        return number

    def settle(self, number: int, outcome: str, latency: float) -> None:
        """Enters the answer to a good client.

        Args:
            outcome: `right`, `busy` or `late`; any other text says what is wrong, and counts as lost.
            latency: seconds.
        """
        self.waiting.discard(number)
        if outcome == "right":
            self.latencies.append(latency)
        if outcome in self.outcomes:
            self.outcomes[outcome] += 1
            return
        self.outcomes["lost"] += 1
        if len(self.losses) < MOST_DETAILS:
            self.losses.append({"at": round(self.now, 1), "id": number, "what": outcome})

    def complain(self, complaint: str) -> None:
        if len(self.complaints) < MOST_DETAILS:
            self.complaints.append(f"after {self.now:.0f} s: {complaint}")
