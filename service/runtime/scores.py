"""From logits to probabilities and the best classes."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from service.runtime.head import HeadKind


class TopK(NamedTuple):
    """The most probable classes, best first."""

    class_ids: np.ndarray  # integers (k,)
    probabilities: np.ndarray  # float32 (k,)


def softmax(logits: np.ndarray, temperature: float = 1.0) -> np.ndarray:
    """Probabilities `(N, classes)` of logits `(N, classes)`; those of a calibrated model have its temperature."""
    exponentials: np.ndarray = np.exp((logits - logits.max(axis=1, keepdims=True)) / temperature)
    exponentials /= exponentials.sum(axis=1, keepdims=True)
    return exponentials


def sigmoid(logits: np.ndarray, temperature: float = 1.0) -> np.ndarray:
    """The probability of each class by itself, `1 / (1 + exp(-logits / temperature))`, without overflow."""
    probabilities: np.ndarray = np.exp(-np.logaddexp(0, -logits / temperature))
    return probabilities


def probabilities_of(logits: np.ndarray, kind: HeadKind, temperature: float = 1.0) -> np.ndarray:
    """Probabilities `(N, classes)` of logits `(N, classes)` by the kind of head."""
    return sigmoid(logits, temperature) if kind == "sigmoid" else softmax(logits, temperature)


def top_k(logits: np.ndarray, k: int, temperature: float = 1.0, kind: HeadKind = "softmax") -> list[TopK]:
    """The `k` best classes of each row of logits `(N, classes)`; equal ones in the order of their ids.

    Temperature changes the probabilities, never the order: that is the logits'.
    """
    probabilities = probabilities_of(logits, kind, temperature)
    # Sorting all classes would take ten times as long as finding the few that are at least as good as the k-th.
    least = np.partition(logits, -k, axis=1)[:, -k:][:, :1]
    rows, ids = np.nonzero(logits >= least)
    order = np.lexsort((-logits[rows, ids], rows))  # stable
    first = np.searchsorted(rows, np.arange(len(logits)))
    best = ids[order][first[:, None] + np.arange(k)]
    return list(map(TopK, best, np.take_along_axis(probabilities, best, axis=1)))
