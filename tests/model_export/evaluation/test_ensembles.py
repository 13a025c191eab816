"""Ensembles: the mean of several models' probabilities."""

from __future__ import annotations

import numpy as np
import pytest

from model_export.errors import InputError
from model_export.evaluation.ensembles import ensemble, ensemble_multi_label
from model_export.evaluation.multi_label import MultiLabelEvaluation
from model_export.evaluation.result import Evaluation


def evaluation_of(model: str, probabilities: list[list[float]], **changes: object) -> Evaluation:
    fields: dict[str, object] = {
        "model": model,
        "dataset": "d",
        "method": "1-crop",
        "classes": ("a", "b"),
        "labels": np.array([0, 1]),
        "probabilities": np.array(probabilities, np.float32),
    }
    return Evaluation(**(fields | changes))  # type: ignore[arg-type]


FIRST = evaluation_of("x", [[0.9, 0.1], [0.6, 0.4]])


def test_an_ensemble_is_the_mean() -> None:
    found = ensemble([FIRST, evaluation_of("y", [[0.5, 0.5], [0.0, 1.0]])])
    assert found.model == "ensemble of 2 models"
    np.testing.assert_allclose(found.probabilities, [[0.7, 0.3], [0.3, 0.7]], rtol=1e-6)
    assert found.probabilities.dtype == np.float32
    assert (found.dataset, found.method, found.classes) == ("d", "1-crop", ("a", "b"))
    assert found.labels.tolist() == [0, 1]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"classes": ("b", "a")}, "x and y differ in their classes or in the order of them"),
        ({"labels": np.array([0, 0])}, "not evaluated in the same way on the same images"),
        ({"dataset": "e"}, r"\(1-crop on d, 1-crop on e\): evaluate both again"),
        ({"method": "10-crop"}, r"\(1-crop on d, 10-crop on d\)"),
    ],
)
def test_unlike_evaluations_make_no_ensemble(changes: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        ensemble([FIRST, evaluation_of("y", [[0.5, 0.5], [0.0, 1.0]], **changes)])


def multi_label(
    model: str, probabilities: list[list[float]], threshold: float, **changes: object
) -> MultiLabelEvaluation:
    fields: dict[str, object] = {
        "model": model,
        "dataset": "d",
        "method": "1-crop",
        "classes": ("a", "b"),
        "present": np.array([[True, False], [True, True]]),
        "probabilities": np.array(probabilities),
        "thresholds": np.array([threshold, 0.5]),
        "temperature": 2.0,
    }
    return MultiLabelEvaluation(**(fields | changes))  # type: ignore[arg-type]


def test_an_ensemble_of_multi_label_models_is_the_mean_with_the_mean_thresholds() -> None:
    one, two = multi_label("x", [[0.9, 0.1], [0.6, 0.4]], 0.2), multi_label("y", [[0.5, 0.5], [0.0, 1.0]], 0.6)
    found = ensemble_multi_label([one, two])
    assert found.model == "ensemble of 2 models"
    np.testing.assert_allclose(found.probabilities, [[0.7, 0.3], [0.3, 0.7]])
    np.testing.assert_allclose(found.thresholds, [0.4, 0.5])
    assert found.answered.tolist() == [[True, False], [False, True]]
    with pytest.raises(InputError, match="x and y were not evaluated in the same way on the same images"):
        ensemble_multi_label([one, multi_label("y", [[0, 0], [0, 0]], 0.5, present=~one.present)])
    with pytest.raises(InputError, match="x and y differ in their classes"):
        ensemble_multi_label([one, multi_label("y", [[0, 0], [0, 0]], 0.5, classes=("b", "a"))])
