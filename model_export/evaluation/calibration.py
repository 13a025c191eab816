"""Temperature scaling: one number that makes a model's confidence match its accuracy.

"On Calibration of Modern Neural Networks" (Guo et al. 2017), section 4.2. The ranking of the classes does not change.
"""

from __future__ import annotations

import numpy as np

from model_export.errors import InputError
from model_export.evaluation.metrics import expected_calibration_error
from model_export.evaluation.result import Evaluation
from service.runtime.measured import Calibration
from service.runtime.scores import softmax

MIN_IMAGES = 20  # the temperature is fitted on half of them
RANGE = (0.05, 20.0)  # of temperatures: with every answer right, the likelihood rises without end as they fall
HALVINGS = 32  # of the range's logarithm: nine digits


def fit_temperature(logits: np.ndarray, labels: np.ndarray) -> float:
    """The temperature, from 0.05 to 20, that maximises the likelihood of `softmax(logits / temperature)`.

    Args:
        logits: float (N, classes). Log-probabilities do as well: they differ by a constant per row.
        labels: int64 (N,).
    """
    # The mean negative log-likelihood is convex in the inverse temperature: its slope crosses 0 at most once.
    z = logits.astype(np.float64)
    z -= z.max(axis=1, keepdims=True)
    true_mean = z[np.arange(len(z)), labels].mean()
    low, high = RANGE
    for _ in range(HALVINGS):
        middle = float(np.sqrt(low * high))
        expected = np.einsum("ij,ij->i", softmax(z, middle), z)
        if expected.mean() > true_mean:  # too confident
            low = middle
        else:
            high = middle
    return high


def calibrate(evaluation: Evaluation, seed: int = 0) -> Calibration:
    """Fits the temperature on a random half of the images and measures its effect on the other half.

    Raises:
        InputError: fewer than 20 images, the best temperature is outside 0.05 to 20, or it raises the calibration error
            on the images that it was not fitted on.
    """
    images = len(evaluation.labels)
    if images < MIN_IMAGES:
        raise InputError(
            f"{evaluation.dataset} has {images} images, too few to calibrate on: give at least {MIN_IMAGES}, better "
            "a thousand"
        )
    order = np.random.default_rng(seed).permutation(images)
    fitted, held_out = order[: images // 2], order[images // 2 :]
    smallest = np.finfo(np.float32).tiny  # probabilities that float32 rounded to 0 have no logarithm
    log_probabilities = np.log(np.maximum(evaluation.probabilities.astype(np.float64), smallest))
    temperature = fit_temperature(log_probabilities[fitted], evaluation.labels[fitted])
    if not 1.01 * RANGE[0] < temperature < 0.99 * RANGE[1]:
        raise InputError(
            f"{evaluation.model} cannot be calibrated on {evaluation.dataset}: the best temperature is beyond "
            f"{temperature:.2f}, which happens if nearly every answer is right, or if confidence says nothing about "
            "the answers: give more and harder images, or leave the calibration out"
        )

    before = evaluation.part(held_out)
    after = before.at_temperature(temperature)
    ece_before, ece_after = expected_calibration_error(before), expected_calibration_error(after)
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
