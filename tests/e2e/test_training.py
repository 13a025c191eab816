"""From a folder of pictures to a running service: every step gives the same answers."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import pytest

from model_export.__main__ import main
from model_export.datasets.image_folder import open_images
from service.runtime.model_folder import read_card
from tests.support.processes import Service

pytestmark = pytest.mark.e2e

KNOWN = ["circle", "triangle", "star", "ring", "spiral", "checkerboard"]
NEW = ["cross", "heart", "stripes", "dots"]
CIFAR = ["--recipe", "paper-cifar", "--depth", "8"]
FEW = ["--batch-size", "16", "--lr", "0.05", "--workers", "0"]  # few pictures: many small steps teach more


def predictions(path: Path) -> dict[str, str]:
    with path.open(newline="") as file:
        return {Path(row["title"]).name: row["predicted"] for row in csv.DictReader(file)}


@pytest.mark.usefixtures("one_thread")
@pytest.mark.slow
def test_finetune_export_evaluate_and_serve_agree_to_the_image(
    tmp_path: Path, start_service: Callable[..., Service]
) -> None:
    base, pictures, models = tmp_path / "base", tmp_path / "pictures", tmp_path / "models"
    known = f"drawings:train=512,val=64,side=32,difficulty=easy,classes={'+'.join(KNOWN)}"
    assert main(["train", "--data", known, *CIFAR, *FEW, "--epochs", "4", "--out", str(base)]) == 0
    drawn = ["--train", "240", "--val", "60", "--difficulty", "easy", "--side", "64"]
    assert main(["draw", str(pictures), *drawn, "--classes", *NEW]) == 0

    run = tmp_path / "run"
    finetune = ["--weights", str(base / "best.safetensors"), "--recipe", "finetune", *FEW, "--epochs", "6"]
    assert main(["train", "--data", str(pictures), *finetune, "--out", str(run)]) == 0
    best = str(run / "best.safetensors")
    at = ["--models-dir", str(models)]
    assert main(["export", "--weights", best, "--name", "mine", *at]) == 0
    card = read_card(models / "mine" / "1")
    assert (card.preprocessing.crop, card.architecture.name) == (32, "resnet8-cifar")
    assert card.preprocessing.mean_image
    assert card.accuracy is not None
    assert card.accuracy.top1 > 0.5  # four classes: it has learned something

    evaluate = ["evaluate", "--data", str(pictures)]
    assert main([*evaluate, best, "--out", str(tmp_path / "torch")]) == 0
    assert main([*evaluate, "mine", *at, "--provider", "cpu", "--record", "--out", str(tmp_path / "onnx")]) == 0
    by_torch, by_onnx = (predictions(tmp_path / folder / "predictions.csv") for folder in ("torch", "onnx"))
    assert by_torch == by_onnx

    service = start_service(models, provider="cpu")
    by_service = {}
    images = open_images(pictures, shown=False)
    for i, path in enumerate(images.paths):
        answer = service.classify(images.read(i), "?top_k=1").json()
        by_service[path.name] = answer["images"][0]["predictions"][0]["label"]
    assert by_service == by_onnx
    right = sum(by_service[path.name] == path.parent.name for path in images.paths)
    (model,) = service.get("/models").json()["models"]
    assert model["accuracy"]["images"] == len(images.paths)
    assert model["accuracy"]["top1"] == pytest.approx(right / len(images.paths))
    assert model["input"]["height"] == model["input"]["width"] == 32
