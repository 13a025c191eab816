"""Temperature scaling: one number that makes a model's confidence match its accuracy.

"On Calibration of Modern Neural Networks" (Guo et al. 2017), section 4.2. The ranking of the classes does not change.
With sigmoid, one temperature for all classes keeps that ranking, too.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import numpy as np

from model_export.errors import InputError
from model_export.evaluation.metrics import expected_calibration_error
from model_export.evaluation.multi_label import MultiLabelEvaluation, check_half, classwise_calibration_error
from model_export.evaluation.result import Evaluation, log_of
from service.runtime.measured import Calibration
from service.runtime.scores import sigmoid, softmax

Predictions = TypeVar("Predictions", Evaluation, MultiLabelEvaluation)

MIN_IMAGES = 20  # the temperature is fitted on half of them
RANGE = (0.05, 20.0)  # of temperatures: with every answer right, the likelihood rises without end as they fall
HALVINGS = 32  # of the range's logarithm: nine digits


def fit_temperature(logits: np.ndarray, labels: np.ndarray) -> float:
    """The temperature, from 0.05 to 20, that maximises the likelihood of `softmax(logits / temperature)`.

    Args:
        logits: float (N, classes). Log-probabilities do as well: they differ by a constant per row.
        labels: int64 (N,).
    """
    z = logits.astype(np.float64)
    z -= z.max(axis=1, keepdims=True)
    true_mean = z[np.arange(len(z)), labels].mean()
    return _where_confidence_fits(lambda t: bool(np.einsum("ij,ij->i", softmax(z, t), z).mean() > true_mean))


def fit_sigmoid_temperature(logits: np.ndarray, present: np.ndarray) -> float:
    """The temperature, from 0.05 to 20, that maximises the likelihood of `sigmoid(logits / temperature)`.

    Args:
        logits: float, of any shape.
        present: bool, of the same shape.
    """
    z = logits.astype(np.float64)
    true_mean = (z * present).mean()
    return _where_confidence_fits(lambda t: bool((sigmoid(z / t) * z).mean() > true_mean))


def _where_confidence_fits(too_confident: Callable[[float], bool]) -> float:
    """The highest temperature at which the model is too confident, from 0.05 to 20.

    The mean negative log-likelihood is convex in the inverse temperature: its slope crosses 0 at most once.
    """
    low, high = RANGE
    for _ in range(HALVINGS):
        middle = float(np.sqrt(low * high))
        if too_confident(middle):
            low = middle
        else:
            high = middle
    return high


def calibrate(evaluation: Evaluation, seed: int = 0) -> Calibration:
    """Fits the temperature on a random half of the images and measures its effect on the other half.

    Args:
        evaluation: calibrated or not: the temperature found takes the place of its own.

    Raises:
        InputError: fewer than 20 images, the best temperature is outside 0.05 to 20, or it raises the calibration error
            on the images that it was not fitted on.
    """

    def fit(part: Evaluation) -> float:
        return fit_temperature(log_of(part.probabilities), part.labels)

    return _calibrate(evaluation, fit, expected_calibration_error, seed)


def calibrate_multi_label(evaluation: MultiLabelEvaluation, seed: int = 0) -> Calibration:
    """As `calibrate`, for sigmoid: one temperature for all classes. Classes without images have no part in it.

    The calibration error is the mean over the classes: the classwise-ECE of "Beyond temperature scaling" (Kull et al.
    2019).

    Raises:
        InputError: as `calibrate`; or no image of one of the halves has a class.
    """

    def fit(part: MultiLabelEvaluation) -> float:
        check_half(part)
        known = part.present.any(axis=0)
        return fit_sigmoid_temperature(part.logits[:, known], part.present[:, known])

    def error(part: MultiLabelEvaluation) -> float:
        check_half(part)
        return classwise_calibration_error(part)

    return _calibrate(evaluation, fit, error, seed)


def _calibrate(
    evaluation: Predictions,
    fit: Callable[[Predictions], float],
    calibration_error: Callable[[Predictions], float],
    seed: int,
) -> Calibration:
    images = len(evaluation.probabilities)
    if images < MIN_IMAGES:
        raise InputError(
            f"{evaluation.dataset} has {images} images, too few to calibrate on: give at least {MIN_IMAGES}, better "
            "a thousand"
        )
    order = np.random.default_rng(seed).permutation(images)
    plain = evaluation.at_temperature(1.0)
    temperature = fit(plain.part(order[: images // 2]))
    if not 1.01 * RANGE[0] < temperature < 0.99 * RANGE[1]:
        raise InputError(
            f"{evaluation.model} cannot be calibrated on {evaluation.dataset}: the best temperature is beyond "
            f"{temperature:.2f}, which happens if nearly every answer is right, or if confidence says nothing about "
            "the answers: give more and harder images, or leave the calibration out"
        )

    before = plain.part(order[images // 2 :])
    ece_before, ece_after = calibration_error(before), calibration_error(before.at_temperature(temperature))
    if ece_after > ece_before:
        raise InputError(
            f"a temperature of {temperature:.3f}, fitted on half of {evaluation.dataset}, raises the calibration error "
            f"of {evaluation.model} on the other half from {100 * ece_before:.2f} to {100 * ece_after:.2f} %: "
            "give more images, or leave the calibration out"
        )
    return Calibration(
        temperature=temperature,
        ece_before=ece_before,
        ece_after=ece_after,
        dataset=evaluation.dataset,
        images=images,
    )
