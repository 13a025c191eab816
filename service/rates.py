"""How fast work leaves, measured while more of it waits."""

from __future__ import annotations


class DrainRate:
    """Items per second that leave, smoothed over about ten batches.

    Recorded are batches that ended while more items waited: a rate measured on a half-empty queue is that of the
    arrivals.
    """

    WEIGHT = 0.1

    def __init__(self, expected: float = 0.0) -> None:
        """
        Args:
            expected: items per second until the first batch is recorded; 0 if nothing is known.
        """
        self._expected = expected
        self._items = 0.0
        self._seconds = 0.0
        self._last = 0.0

    @property
    def per_second(self) -> float:
        return self._items / self._seconds if self._seconds else self._expected

    def record(self, items: int, started: float, finished: float) -> None:
        """Counts overlapping batches once: from the end of the previous batch, not from their own start."""
        seconds = max(finished - max(started, self._last), 0.0)
        self._last = max(finished, self._last)
        # Smoothed separately: two lanes that finish together would give an unbounded rate.
        weight = self.WEIGHT if self._seconds else 1.0
        self._items += weight * (items - self._items)
        self._seconds += weight * (seconds - self._seconds)

    def at_least(self, items: int, started: float, finished: float) -> None:
        """Raises the rate to what a batch has shown to be possible while no more items waited.

        Without this, a rate that a pause has pulled down would stay: it admits so few items that none waits, and
        nothing would be recorded any more.
        """
        seconds = finished - started
        if seconds > 0 and items / seconds > self.per_second:
            self._items, self._seconds = float(items), seconds

    def seconds_for(self, items: int) -> float:
        """How long `items` take to leave; 0 if nothing is known yet."""
        return items / self.per_second if self.per_second else 0.0
