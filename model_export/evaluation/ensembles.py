"""Ensembles: the mean of several models' probabilities (section 4.1 of the paper, table 5)."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from model_export.errors import InputError
from model_export.evaluation.multi_label import MultiLabelEvaluation
from model_export.evaluation.result import Evaluation


def ensemble(evaluations: Sequence[Evaluation]) -> Evaluation:
    """The mean of several models' probabilities.

    Raises:
        InputError: the models' classes, the images or the methods differ.
    """
    _check_comparable(evaluations, [evaluation.labels for evaluation in evaluations])
    mean = np.stack([evaluation.probabilities for evaluation in evaluations]).mean(axis=0, dtype=np.float64)
    return dataclasses.replace(
        evaluations[0], model=_name(evaluations), probabilities=mean.astype(np.float32), temperature=1.0
    )


def ensemble_multi_label(evaluations: Sequence[MultiLabelEvaluation]) -> MultiLabelEvaluation:
    """The mean of several models' probabilities, with the mean of their thresholds.

    Raises:
        InputError: the models' classes, the images or the methods differ.
    """
    _check_comparable(evaluations, [evaluation.present for evaluation in evaluations])
    return dataclasses.replace(
        evaluations[0],
        model=_name(evaluations),
        probabilities=np.mean([evaluation.probabilities for evaluation in evaluations], axis=0),
        thresholds=np.mean([evaluation.thresholds for evaluation in evaluations], axis=0),
        temperature=1.0,
    )


def _name(evaluations: Sequence[object]) -> str:
    return f"ensemble of {len(evaluations)} models"


def _check_comparable(evaluations: Sequence[Evaluation | MultiLabelEvaluation], truths: Sequence[np.ndarray]) -> None:
    """Raises InputError as `ensemble`.

    Args:
        truths: the true classes of each evaluation's images.
    """
    first = evaluations[0]
    for other, truth in zip(evaluations[1:], truths[1:], strict=True):
        if other.classes != first.classes:
            raise InputError(
                f"{first.model} and {other.model} differ in their classes or in the order of them: an ensemble needs "
                "models with the same labels"
            )
        same_images = other.dataset == first.dataset and np.array_equal(truth, truths[0])
        if not same_images or other.method != first.method:
            raise InputError(
                f"{first.model} and {other.model} were not evaluated in the same way on the same images "
                f"({first.method} on {first.dataset}, {other.method} on {other.dataset}): evaluate both again"
            )
