"""Temperature scaling: one number that makes confidence mean what it says.

"On Calibration of Modern Neural Networks" (Guo et al. 2017), section 4.2. The order of the classes stays as it is.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from model_export.errors import InputError
from model_export.evaluation.metrics import expected_calibration_error
from model_export.evaluation.result import Evaluation
from service.card import Calibration

MIN_IMAGES = 20  # half of them would be too few even for one number
RANGE = (0.05, 20.0)  # of temperatures: where nothing was answered wrongly, ever lower ones would seem better
HALVINGS = 32  # of the range's logarithm: nine digits


def fit_temperature(logits: np.ndarray, labels: np.ndarray) -> float:
    """The temperature, from 0.05 to 20, of which `softmax(logits / temperature)` has the highest likelihood.

    Args:
        logits: float (N, classes). Log-probabilities are as good: they differ by a constant in each row.
        labels: int64 (N,).
    """
    # The mean negative log-likelihood is convex in the inverse temperature, so its slope crosses 0 at most once.
    z = logits.astype(np.float64)
    z -= z.max(axis=1, keepdims=True)
    of_truth = z[np.arange(len(z)), labels].mean()
    low, high = RANGE
    for _ in range(HALVINGS):
        middle = float(np.sqrt(low * high))
        weights = np.exp(z / middle)
        expected = np.einsum("ij,ij->i", weights, z) / weights.sum(axis=1)
        if expected.mean() > of_truth:  # too confident
            low = middle
        else:
            high = middle
    return high


def calibrate(evaluation: Evaluation, seed: int = 0) -> Calibration:
    """Fits the temperature on one half of the images, drawn by `seed`, and measures what it does to the other half.

    Raises:
        InputError: there are fewer than 20 images, or no temperature suits them.
    """
    images = len(evaluation.labels)
    if images < MIN_IMAGES:
        raise InputError(
            f"{evaluation.dataset} has {images} images, too few to calibrate on: give at least {MIN_IMAGES}, better "
            "a thousand"
        )
    order = np.random.default_rng(seed).permutation(images)
    fitted, held_out = order[: images // 2], order[images // 2 :]
    smallest = np.finfo(np.float32).tiny  # what float32 has rounded to 0 has no logarithm
    log_probabilities = np.log(np.maximum(evaluation.probabilities.astype(np.float64), smallest))
    temperature = fit_temperature(log_probabilities[fitted], evaluation.labels[fitted])
    if not 1.01 * RANGE[0] < temperature < 0.99 * RANGE[1]:
        raise InputError(
            f"{evaluation.model} cannot be calibrated on {evaluation.dataset}: the best temperature is beyond "
            f"{temperature:.2f}, as it is where nearly every answer is right, or where confidence tells nothing about "
            "them: give more and harder images, or leave the calibration out"
        )

    before = dataclasses.replace(
        evaluation, labels=evaluation.labels[held_out], probabilities=evaluation.probabilities[held_out]
    )
    scaled = np.exp(log_probabilities[held_out] / temperature)
    scaled /= scaled.sum(axis=1, keepdims=True)
    after = dataclasses.replace(before, probabilities=scaled.astype(np.float32))
    return Calibration(
        temperature=temperature,
        ece_before=expected_calibration_error(before),
        ece_after=expected_calibration_error(after),
        dataset=evaluation.dataset,
        images=images,
    )
