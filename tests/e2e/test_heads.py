"""A multi-label and a rejecting model, from drawn pictures to the service, whose answers are those of `evaluate`."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from model_export.__main__ import main as model_export
from model_export.datasets.drawings import DrawingsOfSeveral
from model_export.drawings.pictures import STYLES
from model_export.export.record import publish_record
from service.runtime.measured import MultiLabelAccuracy
from service.runtime.model_folder import ModelVersion, read_card
from tests.support.processes import Service

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(240)]

CLASSES = ("circle", "cross", "heart", "star")
TRAINING = ("--recipe", "paper-cifar", "--depth", "8", "--batch-size", "32", "--lr", "0.05", "--milestones", "0.5")


def tell(*arguments: object) -> None:
    assert model_export([*map(str, arguments)]) == 0


def predictions(folder: Path) -> dict[str, dict[str, str]]:
    """The rows of `predictions.csv`, by the name of the image's file."""
    with (folder / "predictions.csv").open(newline="", encoding="utf-8") as file:
        return {Path(row["title"]).name: row for row in csv.DictReader(file)}


def answers(service: Service, images: list[Path], query: str = "") -> dict[str, dict[str, Any]]:
    """The service's entry for each image, by the name of its file."""
    found = {}
    for path in images:
        response = service.classify(path.read_bytes(), query)
        assert response.status_code == 200, response.text
        (found[path.name],) = response.json()["images"]
    return found


def write_multi_label(root: Path) -> None:
    """`train/` and `val/` with a `labels.csv` each."""
    style = STYLES["easy"].square(64)
    for part, first, count in (("train", 0, 320), ("val", 320, 160)):
        data = DrawingsOfSeveral(seed=5, first=first, count=count, figures=3, classes=CLASSES[:3], style=style)
        folder = root / part
        (folder / "pictures").mkdir(parents=True)
        lines = ["file,labels"]
        for i in range(count):
            (folder / "pictures" / f"{i:03}.jpg").write_bytes(data.read(i))
            lines.append(f"pictures/{i:03}.jpg,{data.label_text(i).replace('+', ';')}")
        (folder / "labels.csv").write_text("\n".join(lines) + "\n")


@pytest.mark.usefixtures("one_thread")
@pytest.mark.slow
def test_a_multi_label_model(tmp_path: Path, start_service: Callable[..., Service]) -> None:
    data, models, out = tmp_path / "data", tmp_path / "models", tmp_path / "out"
    write_multi_label(data)
    tell(
        "train",
        "--data",
        data,
        "--out",
        tmp_path / "run",
        "--steps",
        90,
        "--workers",
        0,
        "--device",
        "cpu",
        *TRAINING,
    )
    tell("export", "--weights", tmp_path / "run" / "best.safetensors", "--name", "shapes", "--models-dir", models)
    options = ("--models-dir", models, "--data", data, "--provider", "cpu")
    tell("evaluate", "shapes", *options, "--record")
    card = read_card(models / "shapes" / "2")
    assert (card.schema_version, card.head.kind) == (2, "sigmoid")
    assert isinstance(card.accuracy, MultiLabelAccuracy)
    publish_record(ModelVersion("shapes", 2, models / "shapes" / "2"), card.accuracy, thresholds=(0.3, 0.5, 0.7))
    tell("evaluate", "shapes", *options, "--out", out)
    assert card.accuracy.mean_average_precision > 0.6  # by chance, about 0.5

    service = start_service(models, provider="cpu", max_batch=1)
    rows = predictions(out)
    found = answers(service, sorted((data / "val" / "pictures").iterdir()))
    assert found.keys() == rows.keys()
    for name, image in found.items():
        assert {one["label"] for one in image["labels"]} == set(filter(None, rows[name]["predicted"].split(";")))
        for one in image["predictions"]:
            assert one["probability"] == pytest.approx(float(rows[name][f"p({one['label']})"]), abs=2e-5)
    assert len({len(image["labels"]) for image in found.values()}) > 1


@pytest.mark.usefixtures("one_thread")
@pytest.mark.slow
def test_a_rejecting_model(tmp_path: Path, start_service: Callable[..., Service]) -> None:
    data, models, out = tmp_path / "data", tmp_path / "models", tmp_path / "out"
    tell("draw", data, "--train", 400, "--val", 200, "--side", 32, "--difficulty", "easy", "--classes", *CLASSES)
    tell(
        "train", "--data", data, "--out", tmp_path / "run", "--steps", 150, "--workers", 0, "--device", "cpu", *TRAINING
    )
    tell("export", "--weights", tmp_path / "run" / "best.safetensors", "--name", "shapes", "--models-dir", models)
    options = ("--models-dir", models, "--data", data, "--provider", "cpu")
    tell("evaluate", "shapes", *options, "--reject-above-error", 0.2, "--record", "--out", out)
    card = read_card(models / "shapes" / "2")
    rejection = card.head.rejection
    assert rejection is not None
    assert 0 < rejection.coverage < 1
    assert rejection.error < rejection.error_without

    service = start_service(models, provider="cpu", max_batch=1)
    rows = predictions(out)
    images = sorted((data / "val").rglob("*.jpg"))
    names = {f"{path.parent.name}/{path.name}" for path in images}
    assert len(names) == len(rows) == len(images)  # numbered over all classes
    found = answers(service, images)
    for name, image in found.items():
        sure = float(rows[name]["probability"]) >= rejection.threshold
        assert image["rejected"] is not sure
        assert image["label"] == (rows[name]["predicted"] if sure else None)
    assert len({image["rejected"] for image in found.values()}) == 2

    restricted = answers(service, images[:20], "?labels=star,heart")
    for name, image in restricted.items():
        shares = {label: float(rows[name][f"p({label})"]) for label in ("star", "heart")}
        assert image["mass"] == pytest.approx(sum(shares.values()), abs=2e-5)
        assert image["rejected"] is (max(shares.values()) < rejection.threshold)
