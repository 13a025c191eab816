"""Fitting a threshold below which nothing is answered."""

from __future__ import annotations

import numpy as np
import pytest

from model_export.errors import InputError
from model_export.evaluation.rejection import fit_rejection, risk_coverage
from model_export.evaluation.result import Evaluation


def evaluation(confidence: np.ndarray, right: np.ndarray) -> Evaluation:
    """Two classes; every image is of the first one if its answer is right."""
    probabilities = np.stack([confidence, 1 - confidence], axis=1).astype(np.float32)
    return Evaluation("m", "pictures", "1-crop", ("a", "b"), np.where(right, 0, 1).astype(np.int64), probabilities)


def honest(images: int, seed: int = 0) -> Evaluation:
    """Answers that are right as often as they are confident."""
    rng = np.random.default_rng(seed)
    confidence = rng.uniform(0.5, 1, images)
    return evaluation(confidence, rng.uniform(size=images) < confidence)


def test_risk_and_coverage() -> None:
    found = risk_coverage(evaluation(np.array([0.6, 0.9, 0.8, 0.8]), np.array([False, True, True, False])))
    np.testing.assert_allclose(found.threshold, [0.85, 0.7, 0.3], rtol=1e-6)  # equal ones stay together
    np.testing.assert_allclose(found.coverage, [0.25, 0.75, 1])
    np.testing.assert_allclose(found.error, [0, 1 / 3, 1 / 2])


def test_the_error_of_the_answers_falls_to_what_was_asked() -> None:
    """Answers above t are wrong in (1 - t) / 2 of the cases, if confidence is uniform and honest."""
    found = fit_rejection(honest(40_000), 0.05)
    assert found.threshold == pytest.approx(0.9, abs=0.02)
    assert found.coverage == pytest.approx(2 * (1 - found.threshold), abs=0.01)
    assert found.error == pytest.approx(0.05, abs=0.005)
    assert found.error_without == pytest.approx(0.25, abs=0.01)
    assert (found.dataset, found.images) == ("pictures", 40_000)


def test_it_is_measured_on_the_other_half() -> None:
    """The fitted half can be divided exactly; in the other one a sure answer is wrong."""
    order = np.random.default_rng(0).permutation(40)
    confidence, right = np.full(40, 0.9), np.ones(40, bool)
    confidence[order[:4]], right[order[:4]] = 0.6, False
    confidence[order[20:28]], right[order[20:26]] = 0.6, False
    right[order[39]] = False
    found = fit_rejection(evaluation(confidence, right), 0.1)
    assert found.threshold == pytest.approx(0.75)
    assert found.coverage == pytest.approx(12 / 20)
    assert found.error == pytest.approx(1 / 12)
    assert found.error_without == pytest.approx(7 / 20)


def test_the_lowest_threshold_is_taken() -> None:
    """An error that has been exceeded may be kept again with more answers."""
    confidence = np.tile([0.95, 0.9, 0.85, 0.8, 0.6], 100)
    right = np.tile([False, True, True, True, False], 100)
    found = fit_rejection(evaluation(confidence, right), 0.3)
    assert found.threshold == pytest.approx(0.7)


def test_what_cannot_be_fitted_says_why() -> None:
    with pytest.raises(InputError, match=r"has 100 images, too few .* at an error of 0\.01: give at least 200"):
        fit_rejection(honest(100), 0.01)
    with pytest.raises(InputError, match="even among the surest answers more than 5 % are wrong"):
        fit_rejection(evaluation(np.linspace(0.6, 0.9, 100), np.zeros(100, bool)), 0.05)
    with pytest.raises(InputError, match=r"0\.00 % of all answers are wrong, so nothing has to be rejected"):
        fit_rejection(evaluation(np.linspace(0.6, 0.9, 100), np.ones(100, bool)), 0.05)


def test_a_threshold_that_gains_nothing_on_the_other_half_is_refused() -> None:
    order = np.random.default_rng(0).permutation(100)
    confidence, right = np.full(100, 0.9), np.ones(100, bool)
    confidence[order[:10]], right[order[:10]] = 0.6, False
    confidence[order[50:60]] = 0.6
    right[order[70:80]] = False
    with pytest.raises(InputError, match="does not lower the error on the other half"):
        fit_rejection(evaluation(confidence, right), 0.05)


def test_the_seed_decides_the_halves() -> None:
    assert fit_rejection(honest(400), 0.1, seed=1) == fit_rejection(honest(400), 0.1, seed=1)
    assert fit_rejection(honest(400), 0.1, seed=1) != fit_rejection(honest(400), 0.1, seed=2)
