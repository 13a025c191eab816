"""F1 of counted answers, and the threshold that has the highest."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class BestCut(NamedTuple):
    """Where to answer with a class, for the highest F1."""

    lowest: float  # probability that is answered
    next_lower: float  # the next one, which is not answered; 0 if there is none
    f1: float


def ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """`part / whole`, float64 (n,); NaN where the whole is 0."""
    return np.divide(part, whole, out=np.full(len(whole), np.nan), where=whole > 0)


def f1_of(hits: np.ndarray, answers: np.ndarray, images: np.ndarray) -> np.ndarray:
    """The harmonic mean of precision and recall of each class, float64 (classes,); NaN for classes without images.

    Args:
        hits: answers that are right.
        answers: images that are answered with the class.
        images: images of the class.
    """
    return ratio(2 * hits, np.where(images > 0, answers + images, 0))


def best_cut(present: np.ndarray, probabilities: np.ndarray) -> BestCut:
    """The cut through one class's probabilities with the highest F1; of several, the highest cut.

    Args:
        present: bool (images,), not all False.
        probabilities: float (images,).
    """
    order = np.argsort(-probabilities, kind="stable")
    values = probabilities[order].astype(np.float64)
    hits = np.cumsum(present[order])  # if the first 1, 2, ... images get this answer
    f1 = 2 * hits / (np.arange(1, len(hits) + 1) + hits[-1])
    lower = np.append(values[1:], 0.0)
    last_of_equals = np.append(values[1:] < values[:-1], True)
    best = int(np.argmax(np.where(last_of_equals, f1, -1)))
    return BestCut(float(values[best]), float(lower[best]), float(f1[best]))
