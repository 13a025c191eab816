"""Figures of an evaluation. The predicted class is the most probable; of equal ones that of the lowest class id."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from model_export.evaluation.result import Evaluation

BINS = 15  # of confidence, as in Guo et al. 2017


class ReliabilityBins(NamedTuple):
    """Of each bin of confidence, from lowest to highest; NaN where it holds no image."""

    confidence: np.ndarray  # float64 (bins,): the mean
    accuracy: np.ndarray  # float64 (bins,): the share of right answers
    images: np.ndarray  # int64 (bins,): how many


class Confusion(NamedTuple):
    """One kind of mistake: `images` of class id `true` were taken for `predicted`."""

    true: int
    predicted: int
    images: int


def top_k_accuracy(evaluation: Evaluation, k: int) -> float:
    """The share of images whose true class is among the `k` most probable, in [0, 1].

    Equal probabilities rank in the order of class ids, as in the service. With `k` classes or fewer it is 1.
    """
    probabilities, labels = evaluation.probabilities, evaluation.labels
    of_truth = probabilities[np.arange(len(labels)), labels][:, None]
    lower_id = np.arange(probabilities.shape[1]) < labels[:, None]
    ahead = (probabilities > of_truth) | ((probabilities == of_truth) & lower_id)
    return float(np.mean(ahead.sum(axis=1) < k))


def confusion_matrix(evaluation: Evaluation) -> np.ndarray:
    """Images by true (row) and predicted class (column): int64 (classes, classes)."""
    classes = len(evaluation.classes)
    cells = evaluation.labels * classes + _predicted(evaluation)
    return np.bincount(cells, minlength=classes * classes).reshape(classes, classes).astype(np.int64)


def per_class_accuracy(evaluation: Evaluation) -> np.ndarray:
    """The share of each class's images that were recognised: float64 (classes,), NaN where a class has no image."""
    matrix = confusion_matrix(evaluation)
    return _ratio(matrix.diagonal(), matrix.sum(axis=1))


def negative_log_likelihood(evaluation: Evaluation) -> float:
    """The mean of `-log p(true class)`, in nats. Probabilities that float32 has rounded to 0 count as its smallest."""
    of_truth = evaluation.probabilities[np.arange(len(evaluation.labels)), evaluation.labels]
    return float(-np.mean(np.log(np.maximum(of_truth.astype(np.float64), np.finfo(np.float32).tiny))))


def reliability_bins(evaluation: Evaluation, bins: int = BINS) -> ReliabilityBins:
    """Confidence and accuracy in `bins` bins of equal width, each without its lower edge and with its upper one.

    Guo et al. 2017, "On Calibration of Modern Neural Networks", section 2.
    """
    confidence = evaluation.probabilities.max(axis=1).astype(np.float64)
    right = _predicted(evaluation) == evaluation.labels
    where = np.clip(np.ceil(confidence * bins).astype(np.int64) - 1, 0, bins - 1)
    count = np.bincount(where, minlength=bins)
    return ReliabilityBins(
        _ratio(np.bincount(where, weights=confidence, minlength=bins), count),
        _ratio(np.bincount(where, weights=right, minlength=bins), count),
        count.astype(np.int64),
    )


def expected_calibration_error(evaluation: Evaluation, bins: int = BINS) -> float:
    """How far confidence is from accuracy on average, in [0, 1] (Guo et al. 2017, equation 3)."""
    found = reliability_bins(evaluation, bins)
    filled = found.images > 0
    gaps = np.abs(found.confidence - found.accuracy)[filled]
    return float(np.average(gaps, weights=found.images[filled]))


def worst_mistakes(evaluation: Evaluation, count: int) -> np.ndarray:
    """Indices of at most `count` images that were not recognised, the most confident first: int64 (<= count,)."""
    wrong = np.flatnonzero(_predicted(evaluation) != evaluation.labels)
    confidence = evaluation.probabilities[wrong].max(axis=1)
    return wrong[np.argsort(-confidence, kind="stable")][:count]


def weakest_classes(evaluation: Evaluation, count: int) -> list[int]:
    """At most `count` class ids of which something was not recognised, the least recognised first."""
    accuracy = per_class_accuracy(evaluation)
    order = np.argsort(accuracy, kind="stable")  # NaN comes last
    return [int(i) for i in order[:count] if accuracy[i] < 1]


def most_confused(evaluation: Evaluation, count: int) -> list[Confusion]:
    """At most `count` kinds of mistakes, the most frequent first."""
    mistakes = confusion_matrix(evaluation)
    np.fill_diagonal(mistakes, 0)
    order = np.argsort(-mistakes, axis=None, kind="stable")[:count]
    pairs = zip(*np.unravel_index(order, mistakes.shape), strict=True)
    return [Confusion(int(i), int(j), int(mistakes[i, j])) for i, j in pairs if mistakes[i, j]]


def _predicted(evaluation: Evaluation) -> np.ndarray:
    return evaluation.probabilities.argmax(axis=1)


def _ratio(total: np.ndarray, count: np.ndarray) -> np.ndarray:
    """`total / count`, NaN where the count is 0."""
    return np.divide(total, count, out=np.full(len(count), np.nan), where=count > 0)
