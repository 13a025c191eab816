"""A threshold below which a model gives no answer, and what share of its answers that costs.

"On optimum recognition error and reject tradeoff" (Chow 1970). The curve of error against coverage is that of
"Selective Classification for Deep Neural Networks" (Geifman and El-Yaniv 2017).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from model_export.errors import InputError
from model_export.evaluation.result import Evaluation
from service.runtime.measured import Rejection

MIN_IMAGES = 20  # the threshold is fitted on half of them


class RiskCoverage(NamedTuple):
    """What each threshold does, the highest first: float64 (thresholds,), shares of images in [0, 1]."""

    threshold: np.ndarray  # between the confidences of two images, so that rounding changes no answer
    coverage: np.ndarray  # the share of images that are answered
    error: np.ndarray  # the share of these that are answered wrongly


def risk_coverage(evaluation: Evaluation) -> RiskCoverage:
    """Coverage and error at every threshold that makes a difference; the last one answers every image."""
    confidence = evaluation.probabilities.max(axis=1).astype(np.float64)
    wrong = evaluation.probabilities.argmax(axis=1) != evaluation.labels
    order = np.argsort(-confidence, kind="stable")
    answered = np.arange(1, len(order) + 1)
    error = np.cumsum(wrong[order]) / answered
    lower = np.append(confidence[order][1:], 0.0)
    last_of_equals = lower < confidence[order]
    threshold = (confidence[order] + lower) / 2
    return RiskCoverage(threshold[last_of_equals], (answered / len(order))[last_of_equals], error[last_of_equals])


def fit_rejection(evaluation: Evaluation, max_error: float, seed: int = 0) -> Rejection:
    """Fits the threshold on a random half of the images and measures its effect on the other half.

    It is the lowest threshold with which the share of wrong answers is at most `max_error`.

    Args:
        evaluation: with the probabilities of serving, calibrated if the model is.
        max_error: a fraction in [0, 1].

    Raises:
        InputError: there are too few images to measure such an error, every image can be answered with it, no threshold
            reaches it, or the threshold does not lower the error on the images that it was not fitted on.
    """
    images, subject = len(evaluation.labels), f"{evaluation.model} on {evaluation.dataset}"
    needed = max(MIN_IMAGES, 2 * int(np.ceil(1 / max_error - 1e-9)) if max_error else 200)
    if images < needed:
        raise InputError(
            f"{evaluation.dataset} has {images} images, too few to fit a rejection at an error of {max_error:g}: give "
            f"at least {needed}, better ten times as many"
        )
    order = np.random.default_rng(seed).permutation(images)
    fitted, held_out = (evaluation.part(indices) for indices in (order[: images // 2], order[images // 2 :]))
    curve = risk_coverage(fitted)
    good = np.flatnonzero(curve.error <= max_error)
    if not len(good):
        raise InputError(
            f"{subject}: even among the surest answers more than {100 * max_error:g} % are wrong: allow a higher error"
        )
    if good[-1] == len(curve.error) - 1:
        raise InputError(
            f"{subject}: {100 * curve.error[-1]:.2f} % of all answers are wrong, so nothing has to be rejected for "
            f"{100 * max_error:g} %: ask for a lower error, or leave the rejection out"
        )
    threshold = float(curve.threshold[good[-1]])
    confidence = held_out.probabilities.max(axis=1)
    wrong = held_out.probabilities.argmax(axis=1) != held_out.labels
    answered = confidence >= threshold
    error, error_without = float(wrong[answered].mean()) if answered.any() else 1.0, float(wrong.mean())
    if error >= error_without:
        raise InputError(
            f"{subject}: a threshold of {threshold:.3f}, fitted on half of the images, does not lower the error on the "
            f"other half ({100 * error_without:.2f} % before, {100 * error:.2f} % after): give more images, or leave "
            "the rejection out"
        )
    return Rejection(
        threshold=threshold,
        coverage=float(answered.mean()),
        error=error,
        error_without=error_without,
        dataset=evaluation.dataset,
        images=images,
    )
