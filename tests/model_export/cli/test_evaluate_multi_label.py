"""`python -m model_export evaluate` on multi-label models."""

from __future__ import annotations

import argparse
import csv
import json
from pathlib import Path

import numpy as np
import pytest

from model_export.cli import evaluate as evaluate_command
from model_export.drawings.pictures import picture, pixels
from model_export.errors import InputError
from model_export.evaluation.predictors import TorchPredictor
from model_export.export.publish import publish
from model_export.weights.random_weights import random_weights
from service.runtime.head import Head
from service.runtime.measured import MultiLabelAccuracy
from service.runtime.model_card import Architecture, Label
from service.runtime.model_folder import read_card
from service.runtime.scores import sigmoid

pytestmark = pytest.mark.slow  # trains

CIFAR = Architecture(depth=8, family="cifar", shortcut="A", num_classes=3)
IMAGES = 60


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A published model in `models`, and pictures whose classes it ranks rightly, but not by the threshold 0.5."""
    root = tmp_path_factory.mktemp("multi")
    names = ("a", "b", "c")
    loaded = random_weights(CIFAR)._replace(labels=tuple(Label(name=name) for name in names))
    loaded = loaded._replace(head=Head(kind="sigmoid"))
    publish(loaded, root / "models", "net")
    net = TorchPredictor(loaded, "net")
    probabilities = sigmoid(net.logits(np.stack([pixels(7, i, net.preprocessing) for i in range(IMAGES)])))
    present = probabilities > np.quantile(probabilities, 0.7, axis=0)
    (root / "data").mkdir()
    lines = ["file,labels"]
    for i in range(IMAGES):
        (root / "data" / f"{i:02}.jpg").write_bytes(picture(7, i))
        lines.append(
            f"{i:02}.jpg,{';'.join(name for name, is_there in zip(names, present[i], strict=True) if is_there)}"
        )
    (root / "data" / "labels.csv").write_text("\n".join(lines))
    return root


def evaluate(root: Path, *arguments: object) -> int:
    parser = argparse.ArgumentParser()
    evaluate_command.add_options(parser)
    options = ("--models-dir", root / "models", "--data", root / "data", "--provider", "cpu")
    return evaluate_command.run(parser.parse_args([*map(str, ("net", *options, *arguments))]))


def test_figures_and_files(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert evaluate(root, "--version", 1, "--out", tmp_path) == 0
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
    assert "mean average precision" in (tmp_path / "report.html").read_text()


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


@pytest.mark.parametrize("option", [("--calibrate",), ("--reject-above-error", 0.1)])
def test_options_of_softmax(root: Path, option: tuple[object, ...]) -> None:
    with pytest.raises(InputError, match=f"{option[0]} only applies to models with a softmax head"):
        evaluate(root, *option)
