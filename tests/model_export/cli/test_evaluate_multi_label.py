"""`python -m model_export evaluate` on multi-label models."""

from __future__ import annotations

import argparse
import csv
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from starlette.testclient import TestClient

from model_export.cli import evaluate as evaluate_command
from model_export.drawings.pictures import picture, pixels
from model_export.errors import InputError
from model_export.evaluation.predictors import TorchPredictor
from model_export.export.publish import publish
from model_export.weights.loading import Loaded
from model_export.weights.random_weights import random_weights
from model_export.weights.record import Record
from model_export.weights.safetensors_file import save_safetensors
from service.app import create_app
from service.runtime.head import Head
from service.runtime.measured import MultiLabelAccuracy
from service.runtime.model_card import Architecture, Label
from service.runtime.model_folder import read_card
from service.runtime.scores import sigmoid
from service.settings import Settings
from tests.support.waiting import until_ready

pytestmark = pytest.mark.slow  # trains

CIFAR = Architecture(depth=8, family="cifar", shortcut="A", num_classes=3)
JPEG = {"Content-Type": "image/jpeg"}
IMAGES = 60
NAMES = ("a", "b", "c")


def network() -> Loaded:
    labels = tuple(Label(name=name) for name in NAMES)
    return random_weights(CIFAR)._replace(labels=labels, head=Head(kind="sigmoid"))


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A published model in `models`, and pictures whose classes it ranks rightly, but not by the threshold 0.5."""
    root = tmp_path_factory.mktemp("multi")
    loaded = network()
    publish(loaded, root / "models", "net")
    net = TorchPredictor(loaded, "net")
    probabilities = sigmoid(net.logits(np.stack([pixels(7, i, net.preprocessing) for i in range(IMAGES)])))
    present = probabilities > np.quantile(probabilities, 0.7, axis=0)
    (root / "data").mkdir()
    lines = ["file,labels"]
    for i in range(IMAGES):
        (root / "data" / f"{i:02}.jpg").write_bytes(picture(7, i))
        lines.append(
            f"{i:02}.jpg,{';'.join(name for name, is_there in zip(NAMES, present[i], strict=True) if is_there)}"
        )
    (root / "data" / "labels.csv").write_text("\n".join(lines))
    return root


def evaluate(root: Path, *arguments: object, models: Path | None = None, model: str = "net") -> int:
    parser = argparse.ArgumentParser()
    evaluate_command.add_options(parser)
    options = ("--models-dir", models or root / "models", "--data", root / "data", "--provider", "cpu")
    return evaluate_command.run(parser.parse_args([*map(str, (model, *arguments, *options))]))


def served(models: Path, images: list[bytes]) -> list[dict[str, Any]]:
    """The service's answers with every class."""
    app = create_app(Settings.model_validate({"models_dir": models, "provider": "cpu"}))
    with TestClient(app) as client:
        until_ready(client)
        answers = [client.post("/classify?top_k=3", content=image, headers=JPEG).json() for image in images]
    return [image for answer in answers for image in answer["images"]]


def test_figures_and_files(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert evaluate(root, "--out", tmp_path, model="net@1") == 0
    printed = capsys.readouterr().out
    assert printed.startswith("1-crop on data, 60 images\n")
    assert "net 1 (cpu, fp32)  100.00 %" in printed  # every class is ranked rightly
    (written,) = json.loads((tmp_path / "evaluation.json").read_text())["evaluations"]
    assert written["mean_average_precision"] == 1
    assert [entry["images"] for entry in written["per_class"]] == [18, 18, 18]
    with (tmp_path / "predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == IMAGES
    for row in rows:
        predicted = [name for name in "abc" if float(row[f"p({name})"]) >= 0.5]
        assert row["predicted"] == ";".join(predicted)
    report = (tmp_path / "report.html").read_text()
    assert "mean average precision" in report
    assert "How often a class is present, against its probability" in report


def test_thresholds_are_fitted_and_published(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = read_card(root / "models" / "net" / "1")
    evaluate(root, "--fit-thresholds", "--record")
    assert "images that they were not fitted on, macro F1 " in capsys.readouterr().out
    assert read_card(root / "models" / "net" / "1") == before
    card = read_card(root / "models" / "net" / "2")
    assert card.head.thresholds is not None
    assert isinstance(card.accuracy, MultiLabelAccuracy)
    assert (card.accuracy.images, card.accuracy.provider) == (30, "cpu")  # those that they were not fitted on
    assert card.accuracy.macro_f1 > 0.8
    assert card.accuracy.mean_average_precision == 1


def test_a_calibration_from_the_record_to_the_service(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its thresholds move along, so the labels of every image stay the same."""
    thresholds = (0.45, 0.5, 0.55)
    models = root / "calibrated"
    publish(network()._replace(head=Head(kind="sigmoid", thresholds=thresholds)), models, "net")
    images = [(root / "data" / f"{i:02}.jpg").read_bytes() for i in range(4)]
    before = served(models, images)
    evaluate(root, "--calibrate", "--record", models=models)
    assert "net 1 (cpu, fp32): temperature " in capsys.readouterr().out
    card = read_card(models / "net" / "2")
    assert card.calibration is not None
    assert card.calibration.temperature < 0.7  # random weights are sure of nothing, and here always right
    assert card.calibration.ece_after < card.calibration.ece_before
    expected = [1 / (1 + (1 / p - 1) ** (1 / card.calibration.temperature)) for p in thresholds]
    assert card.head.thresholds == pytest.approx(expected)
    after = served(models, images)
    assert [image["labels"] for image in after] != [[]] * 4
    for new, old in zip(after, before, strict=True):
        assert [entry["label"] for entry in new["labels"]] == [entry["label"] for entry in old["labels"]]
        for sharper, plain in zip(new["predictions"], old["predictions"], strict=True):
            odds = (1 / plain["probability"] - 1) ** (1 / card.calibration.temperature)
            assert sharper["probability"] == pytest.approx(1 / (1 + odds), abs=1e-4)

    assert evaluate(root, models=models) == 0
    assert " 0.450 " not in capsys.readouterr().out  # the thresholds are those of the calibrated model, too

    evaluate(root, "--calibrate", "--fit-thresholds", "--record", models=models)  # anew, for the logits
    again = read_card(models / "net" / "3")
    assert again.calibration is not None
    assert again.calibration.temperature == pytest.approx(card.calibration.temperature, rel=1e-3)
    assert again.head.thresholds != card.head.thresholds


def test_several_models_and_their_ensemble(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    same = tmp_path / "same.safetensors"
    loaded = network()
    record = Record(architecture=CIFAR, preprocessing=loaded.preprocessing, labels=loaded.labels, head=loaded.head)
    save_safetensors(loaded.net.state_dict(), same, record)
    evaluate(root, same, "--calibrate", "--out", tmp_path / "out", model="net@1")
    assert re.search(r"^ensemble of 2 models +100\.00 %", capsys.readouterr().out, re.MULTILINE)
    written = json.loads((tmp_path / "out" / "evaluation.json").read_text())["evaluations"]
    assert [entry["model"] for entry in written] == ["net 1 (cpu, fp32)", str(same), "ensemble of 2 models"]
    assert written[0]["calibration"]["temperature"] == pytest.approx(written[1]["calibration"]["temperature"], rel=1e-3)
    assert "calibration" not in written[2]
    assert written[2]["classwise_calibration_error"] == pytest.approx(
        np.mean([entry["calibration_error"] for entry in written[2]["per_class"]])
    )
    with (tmp_path / "out" / "predictions.csv").open(newline="") as file:
        assert sum(row["model"].startswith("ensemble") for row in csv.DictReader(file)) == IMAGES
    mistakes = (tmp_path / "out" / "mistakes.html").read_text()
    assert "In the labels, not answered: " in mistakes
    assert 'src="data:image/jpeg' in mistakes


def test_a_rejection_has_no_meaning(root: Path) -> None:
    with pytest.raises(InputError, match=r"a multi-label model may name no class, which is an answer, too\. Leave it"):
        evaluate(root, "--reject-above-error", 0.1)
