"""Metrics and thresholds of multi-label models."""

from __future__ import annotations

import numpy as np
import pytest

from model_export.datasets.drawings import Drawings, DrawingsOfSeveral
from model_export.drawings.pictures import STYLES
from model_export.errors import InputError
from model_export.evaluation.answers import answers, same_answers
from model_export.evaluation.evaluate import evaluate
from model_export.evaluation.multi_label import (
    MultiLabelEvaluation,
    accuracy_of,
    best_thresholds,
    calibration_errors,
    class_scores,
    classwise_calibration_error,
    evaluate_multi_label,
    fit_thresholds,
    macro_f1,
    micro_f1,
)
from model_export.evaluation.predictors import TorchPredictor
from model_export.weights.random_weights import random_weights
from service.runtime.head import Head
from service.runtime.images.decoding import decode
from service.runtime.model_card import Architecture, Label

CLASSES = ("circle", "cross", "star")
STYLE = STYLES["easy"].square(64)


def evaluation(
    present: list[list[int]], probabilities: list[list[float]], threshold: float = 0.5
) -> MultiLabelEvaluation:
    truth = np.array(present, dtype=bool)
    return MultiLabelEvaluation(
        "m",
        "pictures",
        "1-crop",
        tuple("abcdef"[: truth.shape[1]]),
        truth,
        np.array(probabilities, np.float64),
        np.full(truth.shape[1], threshold),
    )


def predictor(head: Head) -> TorchPredictor:
    loaded = random_weights(Architecture(depth=8, family="cifar", shortcut="A", num_classes=3))
    return TorchPredictor(loaded._replace(labels=tuple(Label(name=name) for name in CLASSES), head=head), "net")


def test_scores() -> None:
    found = evaluation([[1, 0, 0], [1, 1, 0], [0, 1, 0]], [[0.9, 0.6, 0.1], [0.4, 0.7, 0.1], [0.2, 0.3, 0.1]])
    scores = class_scores(found)
    np.testing.assert_allclose(scores.precision, [1, 1 / 2, np.nan])
    np.testing.assert_allclose(scores.recall, [1 / 2, 1 / 2, np.nan])
    np.testing.assert_allclose(scores.f1, [2 / 3, 1 / 2, np.nan])
    assert micro_f1(found) == pytest.approx(2 * 2 / (3 + 4))
    assert macro_f1(found) == pytest.approx((2 / 3 + 1 / 2) / 2)


def test_as_scikit_learn() -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(0)
    probabilities = rng.uniform(size=(80, 4))
    present = rng.uniform(size=(80, 4)) < probabilities
    found = evaluation(present.astype(int).tolist(), probabilities.tolist(), 0.4)
    assert micro_f1(found) == pytest.approx(metrics.f1_score(present, probabilities >= 0.4, average="micro"))
    assert macro_f1(found) == pytest.approx(metrics.f1_score(present, probabilities >= 0.4, average="macro"))
    assert accuracy_of(found).mean_average_precision == pytest.approx(
        metrics.average_precision_score(present, probabilities, average="macro"), abs=1e-6
    )


def test_the_best_threshold_lies_between_two_probabilities() -> None:
    found = evaluation([[1, 0], [1, 0], [0, 0]], [[0.3, 0.9], [0.2, 0.8], [0.1, 0.7]], 0.5)
    np.testing.assert_allclose(best_thresholds(found), [0.15, 0.5])  # that of before for a class without images


def test_thresholds_are_fitted_on_one_half_and_judged_by_the_other() -> None:
    rng = np.random.default_rng(0)
    probabilities = rng.uniform(size=(4000, 2))
    present = rng.uniform(size=(4000, 2)) < probabilities**3  # too confident
    whole = evaluation(present.astype(int).tolist(), probabilities.tolist(), 0.1)
    thresholds, held_out = fit_thresholds(whole)
    assert len(held_out.present) == 2000
    assert (held_out.thresholds == 0.1).all()
    assert macro_f1(held_out.with_thresholds(thresholds)) > macro_f1(held_out) + 0.1
    order = np.random.default_rng(0).permutation(4000)
    np.testing.assert_array_equal(thresholds, best_thresholds(whole.part(order[:2000])))


def test_what_cannot_be_measured_says_why() -> None:
    few = evaluation([[1, 0]] * 5, [[0.9, 0.1]] * 5)
    with pytest.raises(InputError, match="pictures has 5 images, too few to fit thresholds on: give at least 20"):
        fit_thresholds(few)
    with pytest.raises(InputError, match="pictures has no image with a class of m"):
        accuracy_of(evaluation([[0, 0]], [[0.9, 0.1]]))


def test_the_probabilities_are_the_sigmoid_of_the_logits() -> None:
    net = predictor(Head(kind="sigmoid", thresholds=(0.1, 0.5, 0.9)))
    data = DrawingsOfSeveral(seed=1, count=6, figures=3, classes=("star", "circle"), style=STYLE)
    found = evaluate_multi_label(net, data, shown=False)
    pixels = np.stack([decode(data.read(i), net.preprocessing, max_pixels=10**6).pixels for i in range(6)])
    logits = net.logits(pixels).astype(np.float64)
    np.testing.assert_allclose(found.probabilities, 1 / (1 + np.exp(-logits)), rtol=1e-4)
    assert found.thresholds.tolist() == [0.1, 0.5, 0.9]
    np.testing.assert_array_equal(found.present[:, [2, 0]], data.labels > 0)  # by name, not by place
    assert not found.present[:, 1].any()


def test_the_probabilities_are_those_of_the_calibration() -> None:
    net = predictor(Head(kind="sigmoid"))
    data = DrawingsOfSeveral(seed=1, count=6, figures=3, classes=CLASSES, style=STYLE)
    plain = evaluate_multi_label(net, data, shown=False)
    net.temperature = 3.0
    served = evaluate_multi_label(net, data, shown=False)
    np.testing.assert_allclose(served.probabilities, 1 / (1 + np.exp(-plain.logits / 3)), rtol=1e-5)
    np.testing.assert_allclose(served.at_temperature(1.0).probabilities, plain.probabilities, rtol=1e-5)


def test_another_temperature_moves_the_thresholds_along() -> None:
    rng = np.random.default_rng(0)
    probabilities = np.vstack([rng.uniform(size=(50, 2)), [[0, 1], [1, 0]]])
    before = evaluation([[1, 0]] * 52, probabilities.tolist()).with_thresholds(np.array([0.2, 0.5]))
    after = before.at_temperature(3.0)
    assert after.probabilities[:50, 0].std() < before.probabilities[:50, 0].std() / 2
    np.testing.assert_array_equal(after.answered, before.answered)
    assert after.thresholds[0] == pytest.approx(1 / (1 + np.exp(np.log(4) / 3)))
    assert after.thresholds[1] == 0.5
    for one, other in ((after.at_temperature(1.0), before), (before.at_temperature(1.0), before)):
        np.testing.assert_allclose(one.probabilities, other.probabilities, rtol=1e-9)
        np.testing.assert_allclose(one.thresholds, other.thresholds, rtol=1e-9)


def test_the_calibration_error_of_a_class_is_that_of_its_presence() -> None:
    """A class that is present in three of four images with 0.9, and in one of four with 0.1; one without images."""
    found = evaluation(
        [[1, 0, 0]] * 3 + [[0, 0, 0]] + [[0, 0, 0]] * 3 + [[1, 1, 0]], [[0.9, 0.0, 0.8]] * 4 + [[0.1, 0.0, 0.8]] * 4
    )
    np.testing.assert_allclose(calibration_errors(found), [0.15, 1 / 8, np.nan])
    assert classwise_calibration_error(found) == pytest.approx((0.15 + 1 / 8) / 2)


def test_models_and_data_of_different_kinds() -> None:
    several = DrawingsOfSeveral(seed=1, count=2, figures=2, classes=CLASSES, style=STYLE)
    single = Drawings(seed=1, count=2, classes=CLASSES, style=STYLE)
    with pytest.raises(
        InputError, match=r"is a multi-label model, and the images of drawings 0 to 1 .* have one class"
    ):
        evaluate_multi_label(predictor(Head(kind="sigmoid")), single, shown=False)
    with pytest.raises(InputError, match=r"net has a softmax head, and cannot be evaluated together with multi-label"):
        evaluate_multi_label(predictor(Head()), several, shown=False)
    with pytest.raises(InputError, match=r"has a softmax head, and the images of .* have any number of classes"):
        evaluate(predictor(Head()), several, shown=False)
    with pytest.raises(InputError, match=r"has a sigmoid head, and the images of .* have one class each"):
        evaluate(predictor(Head(kind="sigmoid")), single, shown=False)


def test_the_same_answer_means_all_present_classes() -> None:
    logits = np.array([[3.0, -3.0], [3.0, 0.1]])
    other = np.array([[1.0, -9.0], [3.0, -0.1]])
    assert same_answers(*(answers(each, Head()) for each in (logits, other))) == 1
    assert same_answers(*(answers(each, Head(kind="sigmoid")) for each in (logits, other))) == 0.5
    high = Head(kind="sigmoid", thresholds=(0.9, 0.5))
    assert [answers(logits, high, temperature)[0, 0] for temperature in (1.0, 4.0)] == [True, False]
    low = Head(kind="sigmoid", thresholds=(0.5, 0.4))
    assert same_answers(*(answers(each, low) for each in (logits, other))) == 1
