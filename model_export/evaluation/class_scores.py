"""Precision, recall and F1 of each class, and the threshold that is best for each.

They answer for classes of different sizes, for which one accuracy says little. Every class is judged by itself: against
all others together.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from model_export.evaluation.f1 import best_cut, f1_of, ratio
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
    threshold, threshold_f1 = np.full((2, len(matrix)), np.nan)
    for label in np.flatnonzero(images):
        cut = best_cut(evaluation.labels == label, evaluation.probabilities[:, label])
        threshold[label], threshold_f1[label] = cut.lowest, cut.f1
    f1 = f1_of(right, answers, images)
    return ClassScores(ratio(right, answers), ratio(right, images), f1, threshold, threshold_f1)


def macro_f1(evaluation: Evaluation) -> float:
    """The mean F1 over the classes that have images: small classes count as much as large ones."""
    return float(np.nanmean(class_scores(evaluation).f1))
