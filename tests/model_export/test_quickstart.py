"""What a newcomer gets, by the best means at hand."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

import numpy as np
import pytest

from model_export import quickstart as module
from model_export.errors import InputError, Unavailable
from model_export.quantise import gate
from model_export.quickstart import DEMO_NAME, publish_for_all, quickstart
from model_export.random_weights import random_weights
from model_export.weights import Loaded
from service.card import Architecture, ModelCard, SelfTest, published, verify_digests
from service.engine import DynamicEngine
from service.providers import open_session

pytestmark = pytest.mark.machine

CIFAR = Architecture(depth=8, family="cifar", shortcut="A", num_classes=10)


@pytest.fixture(autouse=True)
def _what_it_says(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "model_export")


def test_what_is_there_is_left_alone(models_dir: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    shutil.copytree(models_dir / "resnet8-cifar", tmp_path / "resnet8-cifar")
    quickstart(tmp_path)
    assert "already holds resnet8-cifar; nothing to do" in caplog.text
    assert [(entry.name, entry.version) for entry in published(tmp_path)] == [("resnet8-cifar", 1)]


def test_imagenet_weights_come_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    asked: list[int] = []

    def imagenet(depth: int) -> Loaded:
        asked.append(depth)
        if depth == 50:
            raise Unavailable("the line went dead")
        return random_weights(CIFAR)

    monkeypatch.setattr(module, "imagenet", imagenet)
    quickstart(tmp_path)
    assert asked == [18, 50]
    assert [entry.name for entry in published(tmp_path)] == ["resnet8-cifar"]  # and no demo beside it
    assert "the line went dead" in caplog.text
    assert "resnet8-cifar: int8 would compute " in caplog.text
    assert "python -m model_export quantize resnet8-cifar --data FOLDER" in caplog.text
    assert "now holds resnet8-cifar" in caplog.text


def test_the_demo_comes_where_the_weights_are_not_to_be_had(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def imagenet(depth: int) -> Loaded:
        raise InputError("the digest is wrong")  # what a captive portal's page looks like

    monkeypatch.setattr(module, "imagenet", imagenet)
    monkeypatch.setattr(module, "shipped_demo", lambda: random_weights(CIFAR))
    quickstart(tmp_path)
    assert "no ImageNet weights: the digest is wrong" in caplog.text
    assert [entry.name for entry in published(tmp_path)] == [DEMO_NAME]


def test_the_first_version_has_a_proven_file_for_gpus(tmp_path: Path) -> None:
    root = tmp_path / "models"
    for version in (1, 2):
        card = publish_for_all(random_weights(CIFAR), root)
        folder = root / "resnet8-cifar" / str(version)
        assert ModelCard.read(folder) == card
        assert card.version == version
        assert card.files.keys() == {"fp32", "fp16"}
        assert card.files["fp16"].gate is not None
        assert card.files["fp16"].gate.images >= 100
        verify_digests(folder, card)
    assert sorted(path.name for path in root.iterdir()) == ["resnet8-cifar"]
    stored = SelfTest.read(folder)
    answers = DynamicEngine(open_session(folder / "model.fp16.onnx", "cpu", threads=1)).infer(stored.images)["logits"]
    assert 0 < np.abs(answers - stored.logits).max() < 0.01 * np.ptp(stored.logits)


def test_a_file_for_gpus_that_loses_too_much_is_left_out_with_a_word(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def failed(*args: object) -> gate.Gate:
        raise gate.GateFailed("it agrees in 3 % only")

    monkeypatch.setattr(gate, "passed", failed)
    card = publish_for_all(random_weights(CIFAR), tmp_path)
    assert card.files.keys() == {"fp32"}
    assert "resnet8-cifar: published without an fp16 file: it agrees in 3 % only" in caplog.text
    assert ModelCard.read(tmp_path / "resnet8-cifar" / "1") == card
