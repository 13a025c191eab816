"""The page of a multi-label model's hardest mistakes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from model_export.datasets.in_memory import InMemory
from model_export.evaluation.multi_label import MultiLabelEvaluation
from model_export.report.multi_label_mistakes_page import WrongAnswer, hardest, write_multi_label_mistakes

from .test_page import HOSTILE, Page


def evaluation(
    present: list[list[int]], probabilities: list[list[float]], classes: tuple[str, ...] = ("cat", "dog")
) -> MultiLabelEvaluation:
    thresholds = np.full(len(classes), 0.5)
    return MultiLabelEvaluation(
        "m", "d", "1-crop", classes, np.array(present, dtype=bool), np.array(probabilities), thresholds
    )


def page_of(folder: Path, answers: MultiLabelEvaluation) -> Page:
    pixels = torch.zeros(len(answers.present), 8, 8, 3, dtype=torch.uint8)
    dataset = InMemory("small", answers.classes, pixels, answers.present.astype(np.float32))
    write_multi_label_mistakes(folder / "mistakes.html", answers, dataset)
    assert [path.name for path in folder.iterdir()] == ["mistakes.html"]
    return Page(folder / "mistakes.html")


def test_misses_and_false_answers_of_each_class_the_surest_first(tmp_path: Path) -> None:
    answers = evaluation(
        [[1, 1], [1, 0], [0, 0], [0, 0], [0, 1]], [[0.4, 0.9], [0.1, 0.2], [0.7, 0.0], [0.8, 0.0], [0.0, 0.6]]
    )
    page = page_of(tmp_path, answers)
    for part in ("2 classes missed", "2 classes named wrongly", "5 images", "Every mistake, class by class"):
        assert part in page.text
    shown = page.text.partition("cat In the labels, not answered: 2 ")[2]
    missed, _, too_many = shown.partition(" Answered, not in the labels: 2 ")
    assert missed == "cat 10.0% dog 20.0% small, number 1 cat 40.0% dog 90.0% small, number 0"
    assert too_many.startswith("cat 80.0% dog 0.0% small, number 3 cat 70.0% dog 0.0% small, number 2")
    assert "dog In the labels" not in page.text  # no mistakes
    assert len(page.images("image/jpeg")) == 4
    rows = [attributes.get("class") for tag, attributes in page.tags if tag == "tr"]
    assert rows == ["right", None, "right", "right", None, None, None, None]


def test_every_class_has_its_surest_mistakes_before_any_has_more() -> None:
    present = np.zeros((300, 2), int)
    present[0] = 1
    probabilities = np.full((300, 2), 0.9)
    probabilities[0] = 0.1
    probabilities[:-2, 1] = 0.1  # two mistakes of the second class, 299 of the first, and a miss of each
    found = hardest(evaluation(present.tolist(), probabilities.tolist()), 10)
    assert len(found) == 10
    assert [wrong for wrong in found if wrong.class_id == 1] == [
        WrongAnswer(1, 0, missed=True), WrongAnswer(1, 298, missed=False), WrongAnswer(1, 299, missed=False),
    ]  # fmt: skip
    assert found[:2] == [WrongAnswer(0, 0, missed=True), WrongAnswer(0, 1, missed=False)]


def test_at_most_200_mistakes(tmp_path: Path) -> None:
    page = page_of(tmp_path, evaluation([[0, 1]] * 120, [[0.9, 0.1]] * 120))
    assert len(page.images("image/jpeg")) == 200
    assert "200 of 240 mistakes" in page.text


def test_a_perfect_model_and_hostile_names(tmp_path: Path) -> None:
    assert "None: every answer is right." in page_of(tmp_path, evaluation([[1, 0]], [[0.9, 0.1]])).text
    page = page_of(tmp_path, evaluation([[1, 0]], [[0.1, 0.1]], (f"{HOSTILE} 0", "b")))
    assert not page.names() & {"script", "link", "iframe", "object"}
    assert f"{HOSTILE} 0 In the labels" in page.text
