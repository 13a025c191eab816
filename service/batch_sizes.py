"""How many items a batch takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol


class Sizes(Protocol):
    """How many items a batch takes."""

    @property
    def largest(self) -> int:
        """No batch is larger."""

    def take(self, waiting: int, lanes: int) -> int:
        """How many of `waiting` items the next batch takes while `lanes` lanes are free; at least one."""


class ExactSizes:
    """Batches of exactly these sizes. The free lanes share the queue, so that all finish soon.

    Args:
        sizes: ascending from 1.
    """

    def __init__(self, sizes: Sequence[int]) -> None:
        self._sizes = tuple(sizes)
        self.largest = self._sizes[-1]

    def take(self, waiting: int, lanes: int) -> int:
        share = -(-waiting // lanes)
        return max(size for size in self._sizes if size <= share)


class PaddedSizes:
    """Batches of any size, each padded to the next larger of these. Splits the queue for the least time in all.

    Unlike on a CPU, lanes do not share the queue: one GPU computes for all of them.

    Args:
        seconds: time that each size takes, by size, ascending from 1.
    """

    def __init__(self, seconds: Mapping[int, float]) -> None:
        self.largest = max(seconds)

        def batch(items: int) -> float:
            return seconds[min(size for size in seconds if size >= items)]

        # For n items: the least total time, and how many items the first batch takes. Rounded to microseconds; ties go
        # to the larger first batch, which answers more clients first.
        fastest: list[tuple[float, int]] = [(0.0, 0)]
        for waiting in range(1, self.largest + 1):
            firsts = {min(waiting, size) for size in seconds}
            total, first = min((round(batch(taken) + fastest[waiting - taken][0], 6), -taken) for taken in firsts)
            fastest.append((total, -first))
        self._take = [first for _, first in fastest]

    def take(self, waiting: int, lanes: int) -> int:
        return self._take[min(waiting, self.largest)]
