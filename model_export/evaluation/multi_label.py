"""The predictions of one multi-label model on one data set, their metrics, and thresholds fitted to them."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from model_export.datasets.base import Dataset
from model_export.errors import InputError
from model_export.evaluation.average_precision import average_precisions, mean_average_precision
from model_export.evaluation.evaluate import class_ids, mean_probabilities
from model_export.evaluation.f1 import best_cut, f1_of, ratio
from model_export.evaluation.metrics import mean_gap, reliability_of
from model_export.evaluation.predictors import Predictor
from model_export.evaluation.result import Method
from service.runtime.choices import Precision
from service.runtime.measured import MultiLabelAccuracy
from service.runtime.scores import sigmoid

MIN_IMAGES = 20  # the thresholds are fitted on half of them


@dataclass(frozen=True, eq=False)
class MultiLabelEvaluation:
    """One model's predictions, in the order of the data set.

    Attributes:
        model, dataset: names to show.
        classes: the model's class names, by class id.
        present: bool (N, classes), the truth. Classes that the data set does not know are not present.
        probabilities: float64 (N, classes); the mean sigmoid of an image's views.
        thresholds: float64 (classes,), of the probabilities.
        temperature: of these probabilities: that of the model's calibration.
    """

    model: str
    dataset: str
    method: Method
    classes: tuple[str, ...]
    present: np.ndarray
    probabilities: np.ndarray
    thresholds: np.ndarray
    temperature: float = 1.0

    @property
    def logits(self) -> np.ndarray:
        """Of the probabilities, and finite: float64 (N, classes)."""
        limits = np.finfo(np.float64)
        return logit(np.clip(self.probabilities, limits.tiny, 1 - limits.epsneg))

    @property
    def answered(self) -> np.ndarray:
        """Which classes the model answers with: bool (N, classes)."""
        return np.asarray(self.probabilities >= self.thresholds)

    def part(self, indices: np.ndarray) -> MultiLabelEvaluation:
        """The predictions for some of the images; `indices` are int64 (n,)."""
        return dataclasses.replace(self, present=self.present[indices], probabilities=self.probabilities[indices])

    def with_thresholds(self, thresholds: np.ndarray) -> MultiLabelEvaluation:
        return dataclasses.replace(self, thresholds=thresholds)

    def at_temperature(self, temperature: float) -> MultiLabelEvaluation:
        """The same answers with another calibration: `sigmoid(logits / temperature)`, and thresholds to match."""
        factor = self.temperature / temperature
        probabilities, thresholds = (
            sigmoid(factor * logit(values)) for values in (self.probabilities, self.thresholds)
        )
        return dataclasses.replace(self, probabilities=probabilities, thresholds=thresholds, temperature=temperature)


def logit(probabilities: np.ndarray) -> np.ndarray:
    """The inverse of the sigmoid; infinite for 0 and 1."""
    with np.errstate(divide="ignore"):
        return np.asarray(np.log(probabilities) - np.log1p(-probabilities))


class MultiLabelScores(NamedTuple):
    """Scores of each class at its threshold, float64 (classes,); NaN where there is nothing to divide by."""

    average_precision: np.ndarray  # over all thresholds; NaN without images
    precision: np.ndarray  # right answers among those that name the class; NaN if none does
    recall: np.ndarray  # images of the class that are answered so; NaN without images
    f1: np.ndarray  # harmonic mean of the two; NaN without images


def evaluate_multi_label(
    predictor: Predictor, dataset: Dataset, *, method: Method = "1-crop", batch_size: int = 32, shown: bool = True
) -> MultiLabelEvaluation:
    """Runs every image of a data set through a network. As `evaluate`, for models with a sigmoid head.

    Raises:
        InputError: as `evaluate`; or the model has a softmax head, or the images have one class each.
    """
    if not predictor.head.multi_label:
        raise InputError(
            f"{predictor.name} has a {predictor.head.kind} head, and cannot be evaluated together with multi-label "
            "models: evaluate it by itself"
        )
    if not dataset.multi_label:
        raise InputError(
            f"{predictor.name} is a multi-label model, and the images of {dataset.name} have one class each: give a "
            "folder with a labels.csv (docs/training.md)"
        )
    ids = class_ids(dataset, predictor)
    present = np.zeros((len(dataset), len(predictor.labels)), dtype=bool)
    present[:, ids] = dataset.labels > 0
    return MultiLabelEvaluation(
        predictor.name,
        dataset.name,
        method,
        tuple(label.name for label in predictor.labels),
        present,
        mean_probabilities(predictor, dataset, method=method, batch_size=batch_size, shown=shown),
        np.array(predictor.head.thresholds_of(len(predictor.labels))),
        predictor.temperature,
    )


def class_scores(evaluation: MultiLabelEvaluation) -> MultiLabelScores:
    answered, present = evaluation.answered, evaluation.present
    hits, answers, images = ((which.sum(axis=0)) for which in (answered & present, answered, present))
    return MultiLabelScores(
        average_precisions(present, evaluation.probabilities),
        ratio(hits, answers),
        ratio(hits, images),
        f1_of(hits, answers, images),
    )


def micro_f1(evaluation: MultiLabelEvaluation) -> float:
    """F1 of all yes-or-no decisions together: frequent classes count more. 1 if there is nothing to find or answer."""
    hits = np.count_nonzero(evaluation.answered & evaluation.present)
    both = np.count_nonzero(evaluation.answered) + np.count_nonzero(evaluation.present)
    return 2 * hits / both if both else 1.0


def macro_f1(evaluation: MultiLabelEvaluation) -> float:
    """The mean F1 of the classes that have images; 0 without any."""
    f1 = class_scores(evaluation).f1
    return float(np.nanmean(f1)) if not np.isnan(f1).all() else 0.0


def calibration_errors(evaluation: MultiLabelEvaluation) -> np.ndarray:
    """The mean distance of each class's probability from how often it is present: float64 (classes,).

    In bins, as `expected_calibration_error`. NaN for classes without images: the data may not know them.
    """
    return np.array(
        [
            mean_gap(reliability_of(probabilities, present)) if present.any() else np.nan
            for probabilities, present in zip(evaluation.probabilities.T, evaluation.present.T, strict=True)
        ]
    )


def classwise_calibration_error(evaluation: MultiLabelEvaluation) -> float:
    """The mean of `calibration_errors` over the classes that have images; NaN without any."""
    errors = calibration_errors(evaluation)
    return float(np.nanmean(errors)) if not np.isnan(errors).all() else float("nan")


def accuracy_of(
    evaluation: MultiLabelEvaluation, provider: str = "pytorch", precision: Precision = "fp32"
) -> MultiLabelAccuracy:
    """The accuracy entry of a model card; provider and precision are those that were evaluated.

    Raises:
        InputError: no image has a class.
    """
    if not evaluation.present.any():
        raise InputError(f"{evaluation.dataset} has no image with a class of {evaluation.model}: give other images")
    return MultiLabelAccuracy(
        dataset=evaluation.dataset,
        images=len(evaluation.present),
        mean_average_precision=mean_average_precision(evaluation.present, evaluation.probabilities),
        micro_f1=micro_f1(evaluation),
        macro_f1=macro_f1(evaluation),
        provider=provider,
        precision=precision,
    )


def check_half(evaluation: MultiLabelEvaluation) -> None:
    """Raises InputError if no image of a half, on which something is fitted or measured, has a class."""
    if not evaluation.present.any():
        raise InputError(
            f"no image has a class of {evaluation.model} in one of the halves of {evaluation.dataset}, which are drawn "
            "at random to fit on and to measure on: give more images that have one"
        )


def best_thresholds(evaluation: MultiLabelEvaluation) -> np.ndarray:
    """The threshold of each class with the highest F1; that of the evaluation for classes without images.

    It lies between two probabilities, so that rounding changes no answer.
    """
    best = evaluation.thresholds.copy()
    for i in np.flatnonzero(evaluation.present.any(axis=0)):
        cut = best_cut(evaluation.present[:, i], evaluation.probabilities[:, i])
        best[i] = (cut.lowest + cut.next_lower) / 2
    return best


def fit_thresholds(evaluation: MultiLabelEvaluation, seed: int = 0) -> tuple[np.ndarray, MultiLabelEvaluation]:
    """Fits the thresholds on a random half of the images.

    Returns:
        The thresholds, and the evaluation of the other half, still with the thresholds of before.

    Raises:
        InputError: there are fewer than 20 images, no image of a half has a class, or the thresholds lower the mean F1
            on the other half.
    """
    images = len(evaluation.present)
    if images < MIN_IMAGES:
        raise InputError(
            f"{evaluation.dataset} has {images} images, too few to fit thresholds on: give at least {MIN_IMAGES}, "
            "better a thousand"
        )
    order = np.random.default_rng(seed).permutation(images)
    fitted, held_out = evaluation.part(order[: images // 2]), evaluation.part(order[images // 2 :])
    for half in (fitted, held_out):
        check_half(half)
    thresholds = best_thresholds(fitted)
    before, after = macro_f1(held_out), macro_f1(held_out.with_thresholds(thresholds))
    if after < before:
        raise InputError(
            f"thresholds fitted on half of {evaluation.dataset} lower the mean F1 of {evaluation.model} on the other "
            f"half from {100 * before:.2f} to {100 * after:.2f} %: give more images, or leave the thresholds"
        )
    return thresholds, held_out
