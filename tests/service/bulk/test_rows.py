"""Rows: what they say of an input, whatever the head of the model."""

from __future__ import annotations

from typing import Any

import pytest

from service.bulk.rows import Problem, Row
from service.runtime.faults import EmptyImage

BEST = [{"class_id": 3, "label": "cat", "probability": 0.7}, {"class_id": 1, "label": "dog", "probability": 0.2}]


@pytest.mark.parametrize(
    ("entry", "answer"),
    [
        ({"predictions": BEST}, ("cat",)),
        ({"predictions": BEST, "rejected": False, "label": "cat"}, ("cat",)),
        ({"predictions": BEST, "rejected": True, "label": None}, ()),
        ({"predictions": BEST, "labels": BEST}, ("cat", "dog")),
        ({"predictions": BEST, "labels": []}, ()),
        (Problem.of(EmptyImage()).entry(), ()),
    ],
)
def test_the_answer_is_what_the_head_says(entry: dict[str, Any], answer: tuple[str, ...]) -> None:
    assert Row("a.jpg", "net", 1, entry).answer == answer


def test_a_problem_survives_its_entry() -> None:
    problem = Problem.of(EmptyImage())
    row = Row("a.jpg", "net", 1, problem.entry())
    assert row.problem == problem
    assert problem.slug == "empty-image"
    assert Row("a.jpg", "net", 1, {"predictions": BEST}).problem is None
