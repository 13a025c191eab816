"""The answers of a model, without probabilities: what two precisions of it must agree on."""

from __future__ import annotations

import numpy as np

from service.runtime.head import Head
from service.runtime.scores import sigmoid


def answers(logits: np.ndarray, head: Head, temperature: float = 1.0) -> np.ndarray:
    """The answer to each row of logits `(N, classes)`: int64 (N,) class ids; of sigmoid bool (N, classes), true
    for the classes that are present.

    A rejection does not matter here: it compares probabilities, and the best class stays the same.

    Args:
        temperature: of the probabilities that the thresholds of sigmoid are for.
    """
    if head.multi_label:
        return present(sigmoid(logits, temperature), head)
    return logits.argmax(axis=1)


def present(probabilities: np.ndarray, head: Head) -> np.ndarray:
    """Which classes are present by a sigmoid head: bool (N, classes), of probabilities of this shape."""
    thresholds = np.array(head.thresholds_of(probabilities.shape[1]))
    return np.asarray(probabilities >= thresholds)


def same_answers(one: np.ndarray, other: np.ndarray) -> float:
    """The share of images with the same answer; of sigmoid, with all present classes the same."""
    equal = one == other
    return float(np.mean(equal if equal.ndim == 1 else equal.all(axis=1)))
