"""Average precision, by hand and as scikit-learn computes it."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

from model_export.evaluation.average_precision import average_precisions, mean_average_precision


def test_by_hand() -> None:
    present = np.array([[True], [False], [True], [False]])
    found = average_precisions(present, np.array([[0.9], [0.8], [0.7], [0.1]]))
    np.testing.assert_allclose(found, [(1 / 1 + 2 / 3) / 2])


@pytest.mark.parametrize("seed", range(10))
def test_as_scikit_learn(seed: int) -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(seed)
    scores = rng.integers(0, 20, (50, 6)) / 20  # with equal ones
    present = rng.uniform(size=(50, 6)) < scores
    present[:, 5] = False
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the class without images
        expected = metrics.average_precision_score(present, scores, average=None)
    found = average_precisions(present, scores)
    np.testing.assert_allclose(found[:5], expected[:5])
    assert np.isnan(found[5])
    assert mean_average_precision(present, scores) == pytest.approx(expected[:5].mean())


def test_without_any_class_there_is_no_mean() -> None:
    assert np.isnan(mean_average_precision(np.zeros((3, 2), bool), np.zeros((3, 2))))
