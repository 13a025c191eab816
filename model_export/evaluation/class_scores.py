"""Precision, recall and F1 of each class, and the threshold that is best for each.

They answer for classes of different sizes, for which one accuracy says little. Every class is judged by itself: against
all others together.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from model_export.evaluation.metrics import confusion_matrix
from model_export.evaluation.result import Evaluation


class ClassScores(NamedTuple):
    """Scores of each class, float64 (classes,); NaN where there is nothing to divide by."""

    precision: np.ndarray  # right answers among those that name the class; NaN if none does
    recall: np.ndarray  # right answers among the images of the class, its accuracy; NaN without images
    f1: np.ndarray  # harmonic mean of the two; NaN without images
    threshold: np.ndarray  # of the probability: answering with the class from it on has the highest F1
    threshold_f1: np.ndarray  # that F1, on the images that the threshold was chosen by


def class_scores(evaluation: Evaluation) -> ClassScores:
    """The scores of each class of a model."""
    matrix = confusion_matrix(evaluation)
    right, images, answers = matrix.diagonal(), matrix.sum(axis=1), matrix.sum(axis=0)
    f1 = _ratio(2 * right, np.where(images > 0, images + answers, 0))
    best = [_best_threshold(evaluation, label) if images[label] else (np.nan, np.nan) for label in range(len(matrix))]
    threshold, threshold_f1 = np.array(best, dtype=np.float64).T
    return ClassScores(_ratio(right, answers), _ratio(right, images), f1, threshold, threshold_f1)


def macro_f1(evaluation: Evaluation) -> float:
    """The mean F1 over the classes that have images: small classes count as much as large ones."""
    return float(np.nanmean(class_scores(evaluation).f1))


def _best_threshold(evaluation: Evaluation, label: int) -> tuple[float, float]:
    """The probability from which on the class is best answered, and its F1; of several, the highest."""
    order = np.argsort(-evaluation.probabilities[:, label], kind="stable")
    probabilities = evaluation.probabilities[order, label].astype(np.float64)
    hits = np.cumsum(evaluation.labels[order] == label)  # if the first 1, 2, ... images get this answer
    f1 = 2 * hits / (np.arange(1, len(hits) + 1) + hits[-1])
    last_of_equals = np.append(probabilities[1:] < probabilities[:-1], True)
    best = int(np.argmax(np.where(last_of_equals, f1, -1)))
    return float(probabilities[best]), float(f1[best])


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """`part / whole`; NaN where the whole is 0."""
    return np.divide(part, whole, out=np.full(len(whole), np.nan), where=whole > 0)
