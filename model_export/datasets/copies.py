"""Copies: image files with the same content, within a data set and in two of its parts."""

from __future__ import annotations

import itertools
import logging

import numpy as np

from model_export.datasets.base import Data, Dataset
from model_export.errors import shortlist

logger = logging.getLogger(__name__)


def first_copies(dataset: Dataset) -> np.ndarray:
    """For each image the index of the first one with the same content, which may be itself: int64 (N,)."""
    if dataset.digests is None:
        return np.arange(len(dataset))
    first: dict[bytes, int] = {}
    return np.array([first.setdefault(digest.tobytes(), i) for i, digest in enumerate(dataset.digests)], np.int64)


def warn_of_copies(data: Data) -> None:
    """Warns of images in one part that are in another one, too: what was learnt by heart is no measure."""
    for part, other in itertools.combinations(data.parts, 2):
        if part.digests is None or other.digests is None:
            continue
        there = {digest.tobytes(): i for i, digest in enumerate(part.digests)}
        pairs = [(i, there[key]) for i, digest in enumerate(other.digests) if (key := digest.tobytes()) in there]
        if pairs:
            logger.warning(
                "%d of the %d images of %s are also in %s (%s): errors on %s will be too low; remove them from one of "
                "the two",
                len(pairs),
                len(other),
                other.name,
                part.name,
                shortlist(f"{other.title(i)} is {part.title(j)}" for i, j in pairs),
                other.name,
            )
