"""Networks that see their images otherwise than as a centre square in colour: trained, exported, served and evaluated
with the same answers to the image.
"""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from model_export.__main__ import main
from model_export.datasets.drawings import Drawings
from model_export.drawings.pictures import STYLES
from service.runtime.model_folder import read_card
from tests.support.processes import Service

CLASSES = ("circle", "cross", "stripes")
LOW, HIGH = 1000, 3000  # of the sensor's values, 12 bits in 16
SHORT = ["--recipe", "paper-cifar", "--depth", "8", "--epochs", "3", "--batch-size", "16", "--lr", "0.05", "--crop"]
SIZES = ["--size", "24", "--test-size", "24", "--width", "40", "--workers", "0"]


def draw(root: Path, *, sixteen_bits: bool) -> list[Path]:
    """Pictures of many proportions in a folder for each class: in colour as JPEGs, or as 16-bit grey PNGs."""
    rng = np.random.default_rng(0)
    drawings = Drawings(seed=0, count=120, first=0, classes=CLASSES, style=STYLES["easy"].square(64))
    paths = []
    for index in range(len(drawings)):
        part = "train" if index < 90 else "val"
        folder = root / part / CLASSES[drawings.labels[index]]
        folder.mkdir(parents=True, exist_ok=True)
        image = drawings.image(index)
        width, height = (int(side) for side in rng.integers(40, 90, 2))
        canvas = Image.new("RGB", (max(64, width), max(64, height)), (90, 120, 150))
        canvas.paste(image, ((canvas.width - 64) // 2, (canvas.height - 64) // 2))
        if sixteen_bits:
            grey = np.asarray(canvas.convert("L")).astype(np.float32)
            paths.append(folder / f"{index}.png")
            Image.fromarray((LOW + grey / 255 * (HIGH - LOW)).astype(np.uint16)).save(paths[-1])
        else:
            paths.append(folder / f"{index}.jpg")
            canvas.save(paths[-1], quality=92)
    return paths


def predictions(path: Path) -> dict[str, str]:
    with path.open(newline="") as file:
        return {Path(row["title"]).name: row["predicted"] for row in csv.DictReader(file)}


@pytest.mark.usefixtures("one_thread")
@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "workers"), [("letterbox", 1), ("letterbox", 2), ("squash", 1), ("grey", 1), ("grey", 2)]
)
def test_train_export_evaluate_and_serve_agree_to_the_image(
    kind: str, workers: int, tmp_path: Path, start_service: Callable[..., Service]
) -> None:
    pictures, models, run = tmp_path / "pictures", tmp_path / "models", tmp_path / "run"
    paths = draw(pictures, sixteen_bits=kind == "grey")
    options = {
        "letterbox": ["--fit", "letterbox", "--fill", "90", "120", "150"],
        "squash": ["--fit", "squash"],
        "grey": ["--test-resize", "40", "--channels", "1", "--window", str(LOW), str(HIGH)],
    }[kind]
    assert main(["train", "--data", str(pictures), *SHORT, "centre", *SIZES, *options, "--out", str(run)]) == 0
    at = ["--models-dir", str(models)]
    assert main(["export", "--weights", str(run / "best.safetensors"), "--name", "mine", *at]) == 0
    card = read_card(models / "mine" / "1")
    assert card.preprocessing.shape == (1 if kind == "grey" else 3, 24, 40)
    assert card.schema_version == 2

    evaluate = ["evaluate", "--data", str(pictures / "val")]
    best = str(run / "best.safetensors")
    assert main([*evaluate, best, "--out", str(tmp_path / "torch")]) == 0
    assert main([*evaluate, "mine", *at, "--provider", "cpu", "--out", str(tmp_path / "onnx")]) == 0
    by_torch, by_onnx = (predictions(tmp_path / folder / "predictions.csv") for folder in ("torch", "onnx"))
    assert by_torch == by_onnx

    service = start_service(models, provider="cpu", workers=workers)
    by_service = {}
    for path in (path for path in paths if path.parent.parent.name == "val"):
        answer = service.classify(path.read_bytes(), "?top_k=1").json()
        by_service[path.name] = answer["images"][0]["predictions"][0]["label"]
    assert by_service == by_onnx
    assert len(set(by_service.values())) > 1  # it has learned to tell something apart
    (model,) = service.get("/models").json()["models"]
    assert (model["input"]["height"], model["input"]["width"], model["input"]["fit"]) == (
        24,
        40,
        "crop" if kind == "grey" else kind,
    )
    assert model["input"]["window"] == ([LOW, HIGH] if kind == "grey" else None)
