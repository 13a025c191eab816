from __future__ import annotations

import numpy as np
import pytest

from model_export.errors import InputError
from model_export.evaluation.calibration import (
    calibrate,
    calibrate_multi_label,
    fit_sigmoid_temperature,
    fit_temperature,
)
from model_export.evaluation.multi_label import MultiLabelEvaluation, fit_thresholds
from model_export.evaluation.result import Evaluation
from service.runtime.scores import sigmoid, softmax

Arrays = tuple[np.ndarray, np.ndarray]


@pytest.fixture(scope="module")
def calibrated() -> Arrays:
    """Logits (20000, 10), and labels drawn with exactly their probabilities."""
    rng = np.random.default_rng(5)
    logits = rng.normal(0, 2, (20_000, 10))
    noise = rng.gumbel(size=logits.shape)  # the Gumbel-max trick: argmax samples from the softmax
    return logits, (logits + noise).argmax(axis=1)


@pytest.mark.parametrize("temperature", [0.3, 1.0, 1.7, 6.0])
def test_a_known_temperature_is_found_again(calibrated: Arrays, temperature: float) -> None:
    logits, labels = calibrated
    assert fit_temperature(logits * temperature, labels) == pytest.approx(temperature, rel=0.02)


def test_log_probabilities_are_as_good_as_logits(calibrated: Arrays) -> None:
    logits, labels = (array[:500] for array in calibrated)
    expected = fit_temperature(3 * logits, labels)
    assert fit_temperature(np.log(softmax(3 * logits)), labels) == pytest.approx(expected, rel=1e-6)
    assert fit_temperature(3 * logits + np.arange(500)[:, None], labels) == pytest.approx(expected, rel=1e-6)


def test_the_temperature_minimises_the_loss(calibrated: Arrays) -> None:
    logits, labels = (array[:300] for array in calibrated)
    found = fit_temperature(2 * logits, labels)

    def loss(temperature: float) -> float:
        return float(-np.log(softmax(2 * logits / temperature)[np.arange(300), labels]).mean())

    assert loss(found) < min(loss(0.99 * found), loss(1.01 * found))


def test_the_temperature_stays_in_its_bounds() -> None:
    logits = np.array([[5.0, 0.0], [0.0, 5.0]])
    assert fit_temperature(logits, np.array([0, 1])) == pytest.approx(0.05)  # all right: no limit below
    assert fit_temperature(logits, np.array([1, 0])) == pytest.approx(20.0)  # all wrong: no limit above
    assert 0.05 <= fit_temperature(np.zeros((4, 2)), np.array([0, 1, 0, 1])) <= 20


def evaluation(logits: np.ndarray, labels: np.ndarray) -> Evaluation:
    classes = tuple("abcdefghij"[: logits.shape[1]])
    return Evaluation("m", "pictures", "1-crop", classes, labels, softmax(logits).astype(np.float32))


def test_overconfidence_is_reduced_on_held_out_images(calibrated: Arrays) -> None:
    logits, labels = calibrated
    found = calibrate(evaluation(2.5 * logits, labels))
    assert found.temperature == pytest.approx(2.5, rel=0.03)
    assert found.ece_before > 0.1
    assert found.ece_after < 0.02
    assert (found.dataset, found.images) == ("pictures", 20_000)


def test_a_temperature_that_raises_the_held_out_error_is_refused(calibrated: Arrays) -> None:
    """The halves tell opposite things: what fits the one spoils the other."""
    logits, labels = (array[:400] for array in calibrated)
    fitted = np.random.default_rng(0).permutation(400)[:200]  # as `calibrate` draws them
    sharper = logits.copy()
    sharper[fitted] *= 6
    with pytest.raises(
        InputError, match=r"raises the calibration error of m on the other half from \d+\.\d\d to \d+\.\d\d %: "
    ):
        calibrate(evaluation(sharper, labels))


def test_the_seed_decides_the_halves(calibrated: Arrays) -> None:
    logits, labels = (array[:100] for array in calibrated)
    few = evaluation(3 * logits, labels)
    assert calibrate(few, seed=1) == calibrate(few, seed=1)
    assert calibrate(few, seed=1).temperature != calibrate(few, seed=2).temperature


def test_the_error_is_that_of_the_held_out_half() -> None:
    """A quarter of the fitted half is wrong (odds of three to one), and three of twenty in the other half."""
    order = np.random.default_rng(0).permutation(40)
    labels = np.zeros(40, np.int64)
    labels[order[:5]] = 1
    labels[order[20:23]] = 1
    found = calibrate(evaluation(np.tile([9.0, 0.0], (40, 1)), labels))
    assert found.temperature == pytest.approx(9 / np.log(3), rel=1e-3)
    assert found.ece_after == pytest.approx(0.85 - 0.75, abs=1e-3)
    assert found.ece_before == pytest.approx(softmax(np.array([[9.0, 0.0]]))[0, 0] - 0.85, abs=1e-5)


def test_too_few_images(calibrated: Arrays) -> None:
    logits, labels = (array[:19] for array in calibrated)
    with pytest.raises(InputError, match="pictures has 19 images, too few to calibrate on: give at least 20"):
        calibrate(evaluation(logits, labels))


@pytest.mark.parametrize("truth", [0, 1])
def test_no_temperature_fits_if_all_answers_are_right_or_wrong(truth: int) -> None:
    logits = np.tile([9.0, 0.0], (40, 1))
    with pytest.raises(InputError, match="m cannot be calibrated on pictures: the best temperature is beyond"):
        calibrate(evaluation(logits, np.full(40, truth)))


def test_a_calibrated_model_is_calibrated_anew(calibrated: Arrays) -> None:
    """The temperature found is for the logits, whatever the probabilities were calibrated by before."""
    logits, labels = (array[:2000] for array in calibrated)
    plain = evaluation(2.5 * logits, labels)
    assert calibrate(plain.at_temperature(0.7)).temperature == pytest.approx(calibrate(plain).temperature, rel=1e-3)


# --- multi-label ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def calibrated_sigmoid() -> Arrays:
    """Logits (20000, 3) of rare and frequent classes, and their presence, drawn with exactly their probabilities."""
    rng = np.random.default_rng(5)
    logits = rng.normal((-3, 0, 2), 2, (20_000, 3))
    return logits, rng.uniform(size=logits.shape) < sigmoid(logits)


def multi_label(logits: np.ndarray, present: np.ndarray) -> MultiLabelEvaluation:
    classes = tuple("abcdef"[: logits.shape[1]])
    return MultiLabelEvaluation(
        "m", "pictures", "1-crop", classes, present, sigmoid(logits), np.full(len(classes), 0.5)
    )


@pytest.mark.parametrize("temperature", [0.3, 1.0, 6.0])
def test_a_known_temperature_of_sigmoid_is_found_again(calibrated_sigmoid: Arrays, temperature: float) -> None:
    logits, present = calibrated_sigmoid
    assert fit_sigmoid_temperature(logits * temperature, present) == pytest.approx(temperature, rel=0.02)


def test_overconfidence_of_sigmoid_is_reduced_on_held_out_images(calibrated_sigmoid: Arrays) -> None:
    logits, present = calibrated_sigmoid
    found = calibrate_multi_label(multi_label(2.5 * logits, present))
    assert found.temperature == pytest.approx(2.5, rel=0.03)
    assert found.ece_before > 0.05
    assert found.ece_after < 0.02
    again = calibrate_multi_label(multi_label(2.5 * logits, present).at_temperature(7.0))
    assert again.temperature == pytest.approx(found.temperature, rel=1e-6)


def test_classes_without_images_do_not_count(calibrated_sigmoid: Arrays) -> None:
    """The data may not know them: then their images are there, and say nothing."""
    logits, present = calibrated_sigmoid
    unknown = np.full((len(logits), 1), 3.0)
    with_unknown = multi_label(np.hstack([2 * logits, unknown]), np.hstack([present, unknown < 0]))
    assert calibrate_multi_label(with_unknown) == calibrate_multi_label(multi_label(2 * logits, present))


@pytest.mark.parametrize("truth", [True, False])
def test_no_temperature_of_sigmoid_fits_if_all_answers_are_right_or_wrong(truth: bool) -> None:
    logits = np.where(np.arange(80).reshape(40, 2) % 3, 9.0, -9.0)
    with pytest.raises(InputError, match="m cannot be calibrated on pictures: the best temperature is beyond"):
        calibrate_multi_label(multi_label(logits, (logits > 0) == truth))


@pytest.mark.parametrize("half", ["fitted", "held out"])
def test_a_half_without_any_class_is_named(calibrated_sigmoid: Arrays, half: str) -> None:
    logits, present = (array[:40] for array in calibrated_sigmoid)
    order = np.random.default_rng(0).permutation(40)  # as `calibrate_multi_label` draws them
    empty = order[:20] if half == "fitted" else order[20:]
    present = present.copy()
    present[empty] = False
    evaluated = multi_label(2 * logits, present)
    for fit in (calibrate_multi_label, fit_thresholds):
        with pytest.raises(InputError, match="no image has a class of m in one of the halves of pictures, "):
            fit(evaluated)
