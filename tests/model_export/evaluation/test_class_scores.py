"""Scores of classes, against values worked out by hand."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from model_export.evaluation.class_scores import class_scores, macro_f1
from model_export.evaluation.result import Evaluation

NAN = float("nan")


def make(labels: list[int], probabilities: list[list[float]]) -> Evaluation:
    classes = tuple("abcd"[: len(probabilities[0])])
    return Evaluation("m", "d", "1-crop", classes, np.array(labels), np.array(probabilities, np.float32))


@pytest.fixture
def evaluation() -> Evaluation:
    """Predicted a, a, b, a, b; no image of class c, and no answer c."""
    return make(
        [0, 0, 0, 1, 1],
        [[0.9, 0.05, 0.05], [0.6, 0.4, 0.0], [0.4, 0.5, 0.1], [0.7, 0.2, 0.1], [0.1, 0.8, 0.1]],
    )


def test_precision_recall_and_f1(evaluation: Evaluation) -> None:
    scores = class_scores(evaluation)
    np.testing.assert_allclose(scores.precision, [2 / 3, 1 / 2, NAN])
    np.testing.assert_allclose(scores.recall, [2 / 3, 1 / 2, NAN])
    np.testing.assert_allclose(scores.f1, [2 / 3, 1 / 2, NAN])
    assert macro_f1(evaluation) == pytest.approx((2 / 3 + 1 / 2) / 2)


def test_a_class_that_is_never_answered_has_no_precision_and_an_f1_of_0() -> None:
    scores = class_scores(make([0, 1], [[0.9, 0.1], [0.8, 0.2]]))
    np.testing.assert_allclose(scores.precision, [0.5, NAN])
    np.testing.assert_allclose(scores.recall, [1, 0])
    np.testing.assert_allclose(scores.f1, [2 / 3, 0])


def test_the_best_threshold(evaluation: Evaluation) -> None:
    scores = class_scores(evaluation)
    # a: from .9 on 1 of 3 (F1 2/4), .7 (2/5), .6 (4/6), .4 all three and one other (6/7), .1 (6/8)
    # b: .8 (2/3), .5 (2/4), .4 (2/5), .2 (4/6), .05 (4/7); of two with 2/3 the higher
    np.testing.assert_allclose(scores.threshold, [0.4, 0.8, NAN], rtol=1e-6)
    np.testing.assert_allclose(scores.threshold_f1, [6 / 7, 2 / 3, NAN])


def test_no_other_threshold_is_better() -> None:
    rng = np.random.default_rng(0)
    probabilities = rng.dirichlet([1, 1, 1], 60).round(1)  # many equal ones
    evaluation = make(rng.integers(0, 3, 60).tolist(), probabilities.tolist())
    scores = class_scores(evaluation)
    for label, tried in itertools.product(range(3), np.linspace(0, 1, 101)):
        answered = evaluation.probabilities[:, label] >= np.float32(tried)
        right = (answered & (evaluation.labels == label)).sum()
        f1 = 2 * right / (answered.sum() + (evaluation.labels == label).sum())
        assert f1 <= scores.threshold_f1[label] + 1e-9
        at = evaluation.probabilities[:, label] >= np.float32(scores.threshold[label])
        right = (at & (evaluation.labels == label)).sum()
        assert scores.threshold_f1[label] == pytest.approx(2 * right / (at.sum() + (evaluation.labels == label).sum()))
