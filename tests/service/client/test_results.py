"""The answers of real models with every kind of head are in tests/e2e/test_client.py."""

from __future__ import annotations

import pytest

from service.client.results import Outcome, Prediction, classification

ONE = {"class_id": 1, "label": "one", "probability": 0.9}
MODEL = {"model": "m", "depth": 18, "version": 1, "provider": "cpu", "precision": "int8"}


def entry(**members: object) -> dict[str, object]:
    return {**MODEL, "images": [{"width": 1, "height": 2, "predictions": [ONE], **members}]}


def test_a_plain_model() -> None:
    found = classification(entry(), "", "id")
    assert found.best == Prediction(1, "one", 0.9)
    assert (found.labels, found.label, found.rejected, found.restricted_to, found.mass) == (None,) * 5
    assert found.milliseconds == {}


def test_other_heads() -> None:
    found = classification(entry(labels=[], label=None, rejected=True) | {"restricted_to": ["one"]}, "", "id")
    assert (found.labels, found.label, found.rejected, found.restricted_to) == ((), None, True, ("one",))


def test_answers_with_another_number_of_images_are_not_read() -> None:
    with pytest.raises(ValueError, match="not enough values"):
        classification({**MODEL, "images": []}, "", "id")


def test_the_result_of_an_outcome() -> None:
    assert Outcome(0, b"image", "answer").result() == "answer"
    with pytest.raises(OSError, match="gone"):
        Outcome[str](0, b"image", error=OSError("gone")).result()
