import base64
import dataclasses
import importlib.metadata
import io
import platform
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from model_export.datasets.base import Dataset
from model_export.datasets.drawings import Drawings
from model_export.datasets.in_memory import InMemory
from model_export.evaluation.result import Evaluation
from model_export.report.page import write_report
from model_export.training.history import Row
from service.runtime.faults import TruncatedImage

HOSTILE = '<script>alert("1")</script> & "quoted" \'single\' $x^'


class Page(HTMLParser):
    """Elements, images and text of an HTML page, each in order."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(path.read_text(encoding="utf-8"))
        self.text = " ".join(self.text.split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data + " "

    def images(self, media_type: str) -> list[Image.Image]:
        head = f"data:{media_type};base64,"
        sources = [str(attributes["src"]) for tag, attributes in self.tags if tag == "img"]
        return [
            Image.open(io.BytesIO(base64.b64decode(source[len(head) :])))
            for source in sources
            if source.startswith(head)
        ]

    def names(self) -> set[str]:
        return {tag for tag, _ in self.tags}


class Named(Drawings):
    """Drawings with hostile titles."""

    def title(self, index: int) -> str:
        return f"{HOSTILE} caf\udce9 {index}"


class Broken(Drawings):
    def read(self, index: int) -> bytes:
        return super().read(index)[:20] + b"\0" * 20


def evaluation(dataset: Dataset, *, wrong: Sequence[int] = (), classes: tuple[str, ...] | None = None) -> Evaluation:
    """Of a model that predicts the next class for the images `wrong`, the first of them most confidently."""
    count = len(dataset.classes)
    answers = dataset.labels.copy()
    answers[list(wrong)] = (answers[list(wrong)] + 1) % count
    confidence = np.full(len(dataset), 0.9)
    confidence[list(wrong)] = np.linspace(0.8, 0.6, len(wrong))
    probabilities = np.repeat((1 - confidence)[:, None] / (count - 1), count, axis=1)
    probabilities[np.arange(len(dataset)), answers] = confidence
    return Evaluation(
        "best.safetensors",
        dataset.name,
        "1-crop",
        classes or dataset.classes,
        dataset.labels,
        probabilities.astype(np.float32),
    )


ROWS = [
    Row(10, 0.5, 0.1, 2.0, 0.8, 2.1, 0.7, 0.2, 100, 10),
    Row(20, 1.25, 0.1, 1.0, 0.4, 1.1, 0.3, 0.1, 100, 20),
    Row(30, 2.0, 0.01, 0.9, 0.3, 1.2, 0.35, 0.1, 100, 30),
]


def report(folder: Path, dataset: Dataset, answers: Evaluation, **changes: Any) -> Page:
    path = folder / "report.html"
    options: dict[str, Any] = {
        "title": "A training",
        "summary": [("network", "resnet18")],
        "recipe": [("batch", "256")],
        "rows": [],
    }
    write_report(path, evaluation=answers, dataset=dataset, **{**options, **changes})
    assert [entry.name for entry in folder.iterdir()] == ["report.html"]
    return Page(path)


@pytest.fixture(scope="module")
def drawings() -> Drawings:
    return Drawings(seed=1, count=40)


@pytest.fixture(scope="module")
def usual(tmp_path_factory: pytest.TempPathFactory, drawings: Drawings) -> Path:
    """The report of a training, with two mistakes."""
    folder = tmp_path_factory.mktemp("report")
    report(folder, drawings, evaluation(drawings, wrong=(7, 3)), rows=ROWS)
    return folder / "report.html"


def test_report(usual: Path, drawings: Drawings) -> None:
    page = Page(usual)
    for part in (
        "A training",
        f"best.safetensors on {drawings.name}, 1-crop",
        "95.00% top-1 accuracy",
        "97.50% top-5 accuracy",
        "40 images",
        "1.25 best epoch",
        "network resnet18",
        "2 of 40 images are predicted wrongly.",
        "crescent 1.8% predicted as spiral 80.0% drawing 7 (seed 1)",
        "star 3.6% predicted as cross 60.0% drawing 3 (seed 1)",
        "True class Predicted as Images star cross 1 crescent spiral 1",
        "Recipe batch 256",
        f"python {platform.python_version()}",
        f"torch {importlib.metadata.version('torch')}",
        f"numpy {np.__version__}",
    ):
        assert part in page.text
    assert "most confident mistakes" not in page.text
    assert page.text.index("crescent 1.8%") < page.text.index("star 3.6%")  # the most confident first
    assert [picture.width for picture in page.images("image/png")] == [1000] * 4


def test_nothing_is_fetched_and_nothing_runs(usual: Path) -> None:
    page = Page(usual)
    assert not page.names() & {"script", "link", "iframe", "object"}
    for _, attributes in page.tags:
        assert str(attributes.get("src", "data:")).startswith("data:")
        assert "href" not in attributes
    text = usual.read_text()
    for address in ("http://", "https://", "url("):
        assert address not in text


def test_thumbnails_are_the_images(usual: Path, drawings: Drawings) -> None:
    for picture, index in zip(Page(usual).images("image/jpeg"), (7, 3), strict=True):
        assert max(picture.size) == 112
        original = drawings.image(index).resize(picture.size)
        assert np.abs(np.asarray(picture, np.float32) - np.asarray(original, np.float32)).mean() < 8


def test_small_images_are_enlarged(tmp_path: Path) -> None:
    dataset = InMemory("small", ("a", "b"), torch.zeros(4, 32, 32, 3, dtype=torch.uint8), np.array([0, 1, 0, 1]))
    page = report(tmp_path, dataset, evaluation(dataset, wrong=(0,)))
    assert [picture.size for picture in page.images("image/jpeg")] == [(112, 112)]
    assert "top-5" not in page.text  # meaningless for two classes


def test_at_most_24_mistakes(tmp_path: Path) -> None:
    dataset = Drawings(seed=1, count=30)
    page = report(tmp_path, dataset, evaluation(dataset, wrong=range(26)))
    assert len(page.images("image/jpeg")) == 24
    assert "26 of 30 images are predicted wrongly. Shown are the 24 most confident mistakes." in page.text


def test_a_perfect_model(tmp_path: Path) -> None:
    dataset = Drawings(seed=1, count=12)
    page = report(tmp_path, dataset, evaluation(dataset))
    assert "None: every prediction is right." in page.text
    assert "confusions" not in page.text
    assert page.images("image/jpeg") == []


def test_without_a_history(tmp_path: Path) -> None:
    dataset = Drawings(seed=1, count=12)
    page = report(tmp_path, dataset, evaluation(dataset, wrong=(0,)), recipe=[], summary=[])
    for part in ("best epoch", "Training", "Recipe"):
        assert part not in page.text
    assert len(page.images("image/png")) == 3


def test_classes_without_images_come_last(tmp_path: Path) -> None:
    dataset = Drawings(seed=1, count=3)  # of twelve classes
    page = report(tmp_path, dataset, evaluation(dataset, wrong=(1,)))
    rows = page.text.partition("Class Images Precision Recall F1 Threshold F1 there ")[2]
    assert rows.startswith(
        "triangle 1 – 0.0% 0.0% 0.018 100.0% square 1 50.0% 100.0% 66.7% 0.900 100.0% "
        "circle 1 100.0% 100.0% 100.0% 0.900 100.0% star 0 – no images"
    ), rows
    widths = [attributes["style"] for tag, attributes in page.tags if tag == "i"]
    assert widths == ["width: 0.0%", "width: 66.7%", "width: 100.0%"]


@pytest.mark.parametrize(("classes", "is_open"), [(60, True), (61, False)])
def test_a_long_table_of_classes_is_folded(tmp_path: Path, classes: int, is_open: bool) -> None:
    labels = np.arange(classes)
    names = tuple(f"class {i}" for i in range(classes))
    dataset = InMemory("many", names, torch.zeros(classes, 8, 8, 3, dtype=torch.uint8), labels)
    page = report(tmp_path, dataset, evaluation(dataset))
    assert [("open" in attributes) for tag, attributes in page.tags if tag == "details"] == [is_open]


def test_hostile_names(tmp_path: Path) -> None:
    dataset = Named(seed=1, count=12)
    classes = tuple(f"{HOSTILE} {i}" for i in range(12))
    answers = dataclasses.replace(evaluation(dataset, wrong=(0,), classes=classes), model=HOSTILE, dataset=HOSTILE)
    pairs = [(HOSTILE, HOSTILE)]
    page = report(tmp_path, dataset, answers, title=HOSTILE, summary=pairs, recipe=pairs)
    assert "script" not in page.names()
    assert f"{HOSTILE} caf? 0" in page.text  # a file name that is not UTF-8
    assert f"predicted as {HOSTILE} 1" in page.text
    assert {str(attributes["alt"]) for tag, attributes in page.tags if tag == "img"} >= {classes[0]}


def test_a_broken_image_leaves_the_report_that_was_there(tmp_path: Path) -> None:
    good = Drawings(seed=1, count=12)
    report(tmp_path, good, evaluation(good))
    before = (tmp_path / "report.html").read_bytes()
    broken = Broken(seed=1, count=12)
    with pytest.raises(TruncatedImage):
        report(tmp_path, broken, evaluation(broken, wrong=(0,)))
    assert (tmp_path / "report.html").read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 1
