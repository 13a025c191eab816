"""Average precision: how well a score finds the images of a class, over all thresholds."""

from __future__ import annotations

import numpy as np


def average_precisions(present: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """The average precision of each class: the precision at every threshold, weighted by the recall that it adds.

    Without interpolation, as `sklearn.metrics.average_precision_score`: `sum (R_n - R_(n-1)) P_n`.

    Args:
        present: bool (N, classes), the truth.
        scores: float (N, classes), higher for images that more probably have the class.

    Returns:
        float64 (classes,); NaN for a class that no image has.
    """
    return np.array([_average_precision(*columns) for columns in zip(present.T, scores.T, strict=True)])


def mean_average_precision(present: np.ndarray, scores: np.ndarray) -> float:
    """The mean average precision (mAP) over the classes that some image has; NaN if there are none."""
    precisions = average_precisions(present, scores)
    known = precisions[~np.isnan(precisions)]
    return float(known.mean()) if len(known) else float("nan")


def _average_precision(present: np.ndarray, scores: np.ndarray) -> float:
    if not present.any():
        return float("nan")
    order = np.argsort(-scores, kind="stable")
    hits = np.cumsum(present[order])
    last_of_equals = np.append(scores[order][1:] != scores[order][:-1], True)
    found, answered = hits[last_of_equals], np.flatnonzero(last_of_equals) + 1
    added = np.diff(found, prepend=0)
    return float(np.sum(added * (found / answered)) / hits[-1])
