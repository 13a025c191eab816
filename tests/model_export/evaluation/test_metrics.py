"""Every metric, against values worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from model_export.evaluation.metrics import (
    confusion_matrix,
    expected_calibration_error,
    most_confused,
    negative_log_likelihood,
    reliability_bins,
    top_k_accuracy,
    worst_mistakes,
)
from model_export.evaluation.result import Evaluation


def make(labels: list[int], probabilities: list[list[float]]) -> Evaluation:
    classes = tuple("abcdefgh"[: len(probabilities[0])])
    return Evaluation("m", "d", "1-crop", classes, np.array(labels), np.array(probabilities, np.float32))


@pytest.fixture
def evaluation() -> Evaluation:
    """Predicted: a, b, b, c, b, a; no image of class d."""
    return make(
        [0, 0, 1, 2, 2, 1],
        [
            [0.7, 0.1, 0.1, 0.1],  # right
            [0.3, 0.5, 0.1, 0.1],  # a predicted as b; second
            [0.0, 0.9, 0.1, 0.0],  # right
            [0.2, 0.1, 0.4, 0.3],  # right
            [0.1, 0.8, 0.02, 0.08],  # c predicted as b; fourth
            [0.5, 0.2, 0.3, 0.0],  # b predicted as a; third
        ],
    )


def test_top_k(evaluation: Evaluation) -> None:
    expected = {1: 3 / 6, 2: 4 / 6, 3: 5 / 6, 4: 1.0, 5: 1.0}
    assert {k: top_k_accuracy(evaluation, k) for k in expected} == pytest.approx(expected)


def test_equal_probabilities_rank_by_class_id() -> None:
    quarter = [0.25, 0.25, 0.25, 0.25]
    tied = make([0, 1, 2, 3], [quarter] * 4)
    assert [top_k_accuracy(tied, k) for k in (1, 2, 3, 4)] == [0.25, 0.5, 0.75, 1.0]
    assert confusion_matrix(tied)[:, 0].tolist() == [1, 1, 1, 1]  # the same rule


def test_confusion_matrix(evaluation: Evaluation) -> None:
    matrix = confusion_matrix(evaluation)
    assert matrix.dtype == np.int64
    assert matrix.tolist() == [[1, 1, 0, 0], [1, 1, 0, 0], [0, 1, 1, 0], [0, 0, 0, 0]]


def test_negative_log_likelihood(evaluation: Evaluation) -> None:
    expected = -np.mean(np.log([0.7, 0.3, 0.9, 0.4, 0.02, 0.2]))
    assert negative_log_likelihood(evaluation) == pytest.approx(expected, rel=1e-6)


def test_the_loss_of_probability_zero_is_finite() -> None:
    assert negative_log_likelihood(make([1], [[1.0, 0.0]])) == pytest.approx(87.34, abs=0.01)


def test_reliability_bins(evaluation: Evaluation) -> None:
    """Confidences .7 .5 .9 .4 .8 .5 and right answers 1 0 1 1 0 0, in bins (0, .25], (.25, .5], (.5, .75], (.75, 1]."""
    found = reliability_bins(evaluation, bins=4)
    np.testing.assert_allclose(found.confidence, [np.nan, 1.4 / 3, 0.7, 0.85], rtol=1e-6)
    np.testing.assert_allclose(found.accuracy, [np.nan, 1 / 3, 1.0, 0.5])
    assert found.images.tolist() == [0, 3, 1, 2]
    # (3 * (.4667 - .3333) + .3 + 2 * .35) / 6
    assert expected_calibration_error(evaluation, bins=4) == pytest.approx((0.4 + 0.3 + 0.7) / 6, rel=1e-6)


def test_a_calibrated_model_has_no_calibration_error() -> None:
    calibrated = make([0, 0, 0, 1], [[0.75, 0.25]] * 4)
    assert expected_calibration_error(calibrated) == pytest.approx(0, abs=1e-9)
    assert expected_calibration_error(make([1, 1], [[1.0, 0.0]] * 2)) == 1.0


def test_worst_mistakes(evaluation: Evaluation) -> None:
    assert worst_mistakes(evaluation, 9).tolist() == [4, 1, 5]  # 1 and 5 are equally confident
    assert worst_mistakes(evaluation, 1).tolist() == [4]
    assert worst_mistakes(make([0], [[1.0, 0.0]]), 5).tolist() == []


def test_most_confused() -> None:
    found = make([2, 2, 1, 0], [[1, 0, 0], [1, 0, 0], [0, 0, 1], [1, 0, 0]])
    assert most_confused(found, 5) == [(2, 0, 2), (1, 2, 1)]
    assert most_confused(found, 1) == [(2, 0, 2)]
