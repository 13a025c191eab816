"""The head of a model: what goes together."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from service.runtime.head import Head
from service.runtime.measured import Rejection

REJECTION = Rejection(threshold=0.7, coverage=0.9, error=0.01, error_without=0.05, dataset="pictures", images=100)


def test_thresholds_are_of_sigmoid_and_rejections_of_softmax() -> None:
    with pytest.raises(ValidationError, match="belong to a sigmoid head"):
        Head(thresholds=(0.5, 0.5))
    with pytest.raises(ValidationError, match="belongs to a softmax head"):
        Head(kind="sigmoid", rejection=REJECTION)
    with pytest.raises(ValidationError, match="kind"):
        Head.model_validate({"kind": "linear"})
    with pytest.raises(ValidationError, match="thresholds"):
        Head(kind="sigmoid", thresholds=(1.5,))


def test_without_thresholds_a_class_is_present_from_one_half_on() -> None:
    assert Head(kind="sigmoid").thresholds_of(3) == (0.5, 0.5, 0.5)
    assert Head(kind="sigmoid", thresholds=(0.2, 0.3)).thresholds_of(2) == (0.2, 0.3)


def test_only_softmax_without_rejection_is_plain() -> None:
    heads = (Head(), Head(kind="sigmoid"), Head(rejection=REJECTION))
    assert [head.is_plain for head in heads] == [True, False, False]
