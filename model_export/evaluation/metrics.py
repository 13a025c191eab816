"""Metrics of an evaluation.

The predicted class is the most probable one; the lowest class id wins ties.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from model_export.evaluation.f1 import ratio
from model_export.evaluation.result import Evaluation, log_of

BINS = 15  # of confidence, as in Guo et al. 2017


class ReliabilityBins(NamedTuple):
    """Means of each confidence bin, the lowest first; NaN in empty bins."""

    confidence: np.ndarray  # float64 (bins,)
    accuracy: np.ndarray  # float64 (bins,)
    images: np.ndarray  # int64 (bins,), counts


class Confusion(NamedTuple):
    """One kind of mistake: so many `images` of class id `true` were predicted as `predicted`."""

    true: int
    predicted: int
    images: int


def top_k_accuracy(evaluation: Evaluation, k: int) -> float:
    """The share of images whose true class is among the `k` most probable, in [0, 1]; 1 with `k` classes or fewer.

    Equal probabilities rank in the order of class ids, as in the service.
    """
    probabilities, labels = evaluation.probabilities, evaluation.labels
    true_probability = probabilities[np.arange(len(labels)), labels][:, None]
    lower_id = np.arange(probabilities.shape[1]) < labels[:, None]
    ahead = (probabilities > true_probability) | ((probabilities == true_probability) & lower_id)
    return float(np.mean(ahead.sum(axis=1) < k))


def confusion_matrix(evaluation: Evaluation) -> np.ndarray:
    """Images by true (row) and predicted class (column): int64 (classes, classes)."""
    classes = len(evaluation.classes)
    cells = evaluation.labels * classes + _predicted(evaluation)
    return np.bincount(cells, minlength=classes * classes).reshape(classes, classes).astype(np.int64)


def negative_log_likelihood(evaluation: Evaluation) -> float:
    """The mean of `-log p(true class)`, in nats. Probabilities rounded to 0 count as the smallest float32."""
    true_probability = evaluation.probabilities[np.arange(len(evaluation.labels)), evaluation.labels]
    return float(-np.mean(log_of(true_probability)))


def reliability_bins(evaluation: Evaluation, bins: int = BINS) -> ReliabilityBins:
    """Confidence and accuracy in `bins` bins of equal width.

    Guo et al. 2017, "On Calibration of Modern Neural Networks", section 2.
    """
    confidence = evaluation.probabilities.max(axis=1)
    return reliability_of(confidence, _predicted(evaluation) == evaluation.labels, bins)


def reliability_of(confidence: np.ndarray, correct: np.ndarray, bins: int = BINS) -> ReliabilityBins:
    """How often answers of a confidence are right; a bin includes its upper edge, not its lower one.

    Args:
        confidence: float (answers,), probabilities.
        correct: bool (answers,).
    """
    confidence = confidence.astype(np.float64)
    bin_of_image = np.clip(np.ceil(confidence * bins).astype(np.int64) - 1, 0, bins - 1)
    count = np.bincount(bin_of_image, minlength=bins)
    return ReliabilityBins(
        ratio(np.bincount(bin_of_image, weights=confidence, minlength=bins), count),
        ratio(np.bincount(bin_of_image, weights=correct, minlength=bins), count),
        count.astype(np.int64),
    )


def expected_calibration_error(evaluation: Evaluation, bins: int = BINS) -> float:
    """The mean distance of confidence from accuracy, in [0, 1] (Guo et al. 2017, equation 3)."""
    return mean_gap(reliability_bins(evaluation, bins))


def mean_gap(bins: ReliabilityBins) -> float:
    """The mean distance of confidence from accuracy over all answers, in [0, 1]; at least one bin is not empty."""
    confidence, accuracy, images = bins
    filled = images > 0
    gaps = np.abs(confidence - accuracy)[filled]
    return float(np.average(gaps, weights=images[filled]))


def worst_mistakes(evaluation: Evaluation, count: int) -> np.ndarray:
    """Indices of at most `count` wrongly predicted images, the most confident first: int64 (<= count,)."""
    wrong = np.flatnonzero(_predicted(evaluation) != evaluation.labels)
    confidence = evaluation.probabilities[wrong].max(axis=1)
    return wrong[np.argsort(-confidence, kind="stable")][:count]


def most_confused(evaluation: Evaluation, count: int) -> list[Confusion]:
    """At most `count` kinds of mistakes, the most frequent first."""
    mistakes = confusion_matrix(evaluation)
    np.fill_diagonal(mistakes, 0)
    order = np.argsort(-mistakes, axis=None, kind="stable")[:count]
    pairs = zip(*np.unravel_index(order, mistakes.shape), strict=True)
    return [Confusion(int(i), int(j), int(mistakes[i, j])) for i, j in pairs if mistakes[i, j]]


def _predicted(evaluation: Evaluation) -> np.ndarray:
    return evaluation.probabilities.argmax(axis=1)
