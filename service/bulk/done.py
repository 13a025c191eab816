"""What a run that goes on need not do again."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from hashlib import blake2b

import numpy as np

from service.bulk.stream import Source


def _digest(name: str) -> int:
    return int.from_bytes(blake2b(name.encode(errors="surrogateescape"), digest_size=8).digest(), "little")


class Done:
    """How many rows each file has, by a digest of its name: 12 bytes for each, however long the names are.

    With a million files, two names have the same digest of 64 bits with a probability of 3e-8.
    """

    def __init__(self, files: Iterable[str]) -> None:
        digests = np.fromiter(map(_digest, files), np.uint64)
        self._digests, counts = np.unique(digests, return_counts=True)
        self._left = counts.astype(np.uint32)
        self.rows = int(counts.sum())

    def take(self, name: str) -> bool:
        """Whether a file has a row that was not taken yet; takes it."""
        digest = np.uint64(_digest(name))
        place = int(np.searchsorted(self._digests, digest))
        if place == len(self._digests) or self._digests[place] != digest or not self._left[place]:
            return False
        self._left[place] -= 1
        return True

    def leave_out(self, sources: Iterable[Source]) -> Iterator[Source]:
        """The sources that have no row yet."""
        return (source for source in sources if not self.take(source.name)) if self.rows else iter(sources)
