from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import torch

from model_export.datasets.drawings import Drawings
from model_export.datasets.in_memory import InMemory
from model_export.report.mistakes_page import write_mistakes

from .test_page import HOSTILE, Named, Page, evaluation


def page_of(folder: Path, dataset: Drawings | InMemory, *, wrong: tuple[int, ...] = (), **changes: object) -> Page:
    answers = dataclasses.replace(evaluation(dataset, wrong=wrong), **changes)
    write_mistakes(folder / "mistakes.html", answers, dataset)
    assert [path.name for path in folder.iterdir()] == ["mistakes.html"]
    return Page(folder / "mistakes.html")


def test_the_most_confident_mistakes_come_first_with_their_pictures(tmp_path: Path) -> None:
    dataset = Drawings(seed=1, count=40)
    page = page_of(tmp_path, dataset, wrong=(7, 3))
    for part in ("Hardest mistakes", "2 mistakes", "40 images", "95.00% top-1 accuracy", "Every mistake, the most"):
        assert part in page.text
    # the answer, two others, and the label
    assert "spiral 80.0% circle 1.8% triangle 1.8% crescent 1.8% drawing 7 (seed 1)" in page.text
    assert page.text.index("drawing 7 ") < page.text.index("drawing 3 ")
    rows = [attributes for tag, attributes in page.tags if tag == "tr"]
    assert [row.get("class") for row in rows] == [None, None, None, "right"] * 2
    pictures = page.images("image/jpeg")
    assert [max(picture.size) for picture in pictures] == [224, 224]
    original = dataset.image(7).resize(pictures[0].size)
    assert np.abs(np.asarray(pictures[0], np.float32) - np.asarray(original, np.float32)).mean() < 8


def test_a_label_among_the_first_answers_is_shown_once(tmp_path: Path) -> None:
    dataset = InMemory("small", ("a", "b"), torch.zeros(4, 32, 32, 3, dtype=torch.uint8), np.array([0, 1, 0, 1]))
    page = page_of(tmp_path, dataset, wrong=(0,))
    assert "b 80.0% a 20.0% small, number 0" in page.text


def test_at_most_200_mistakes(tmp_path: Path) -> None:
    labels = np.arange(210) % 2
    dataset = InMemory("small", ("a", "b"), torch.zeros(210, 8, 8, 3, dtype=torch.uint8), labels)
    page = page_of(tmp_path, dataset, wrong=tuple(range(205)))
    assert len(page.images("image/jpeg")) == 200
    assert "The 200 most confident of 205 mistakes" in page.text


def test_a_perfect_model(tmp_path: Path) -> None:
    assert "None: every prediction is right." in page_of(tmp_path, Drawings(seed=1, count=12)).text


def test_hostile_names_run_nothing(tmp_path: Path) -> None:
    classes = tuple(f"{HOSTILE} {i}" for i in range(12))
    page = page_of(tmp_path, Named(seed=1, count=12), wrong=(0,), model=HOSTILE, classes=classes)
    assert not page.names() & {"script", "link", "iframe", "object"}
    assert f"{HOSTILE} caf? 0" in page.text
    assert all(str(attributes.get("src", "data:")).startswith("data:") for _, attributes in page.tags)
