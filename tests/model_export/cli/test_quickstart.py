"""`python -m model_export quickstart`: which models a newcomer gets."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest

from model_export.__main__ import main
from model_export.cli import quickstart as module
from model_export.cli.quickstart import publish_with_low_precision, quickstart
from model_export.demo import DEMO_NAME
from model_export.errors import InputError, Unavailable
from model_export.quantise import accuracy_gate
from model_export.weights.loading import Loaded
from model_export.weights.random_weights import random_weights
from service.runtime.engine import DynamicEngine
from service.runtime.model_card import Architecture
from service.runtime.model_folder import model_versions, read_card, verify_digests
from service.runtime.providers import open_session
from service.runtime.self_test import SelfTest

CIFAR = Architecture(depth=8, family="cifar", shortcut="A", num_classes=10)


@pytest.fixture(autouse=True)
def _logs(quick_export: None, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "model_export")


def test_a_filled_folder_stays_as_it_is(models: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert main(["quickstart", "--models-dir", str(models)]) == 0
    assert "already holds resnet8-cifar; nothing to do" in caplog.text
    assert [(entry.name, entry.version) for entry in model_versions(models)] == [("resnet8-cifar", 1)]


@pytest.mark.machine
def test_imagenet_weights_come_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    depths: list[int] = []

    def imagenet(depth: int) -> Loaded:
        depths.append(depth)
        if depth == 50:
            raise Unavailable("the line went dead")
        return random_weights(CIFAR)

    monkeypatch.setattr(module, "load_imagenet", imagenet)
    quickstart(tmp_path)
    assert depths == [18, 50]
    assert [entry.name for entry in model_versions(tmp_path)] == ["resnet8-cifar"]  # and no demo beside it
    assert "the line went dead" in caplog.text
    assert "resnet8-cifar: int8 would compute " in caplog.text
    assert "python -m model_export quantize resnet8-cifar --data FOLDER" in caplog.text
    assert "now holds resnet8-cifar" in caplog.text


def test_the_demo_if_the_weights_cannot_be_downloaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def imagenet(depth: int) -> Loaded:
        raise InputError("the digest is wrong")  # what a captive portal's page looks like

    monkeypatch.setattr(module, "load_imagenet", imagenet)
    monkeypatch.setattr(module, "shipped_demo", lambda: random_weights(CIFAR))
    quickstart(tmp_path)
    assert "no ImageNet weights: the digest is wrong" in caplog.text
    assert [entry.name for entry in model_versions(tmp_path)] == [DEMO_NAME]


def test_every_version_has_an_fp16_file_that_passed_its_checks(tmp_path: Path) -> None:
    root = tmp_path / "models"
    for version in (1, 2):
        card = publish_with_low_precision(random_weights(CIFAR), root)
        folder = root / "resnet8-cifar" / str(version)
        assert read_card(folder) == card
        assert card.version == version
        assert card.files.keys() == {"fp32", "fp16"}
        assert card.files["fp16"].gate is not None
        assert card.files["fp16"].gate.images >= 100
        verify_digests(folder, card)
    assert [path.name for path in root.iterdir() if path.is_dir()] == ["resnet8-cifar"]
    stored = SelfTest.read(folder)
    answers = DynamicEngine.of(open_session(folder / "model.fp16.onnx", "cpu", threads=1)).infer(stored.images)[
        "logits"
    ]
    assert 0 < np.abs(answers - stored.logits).max() < 0.01 * np.ptp(stored.logits)


def test_an_fp16_file_that_loses_too_much_is_left_out_with_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def failed(*args: object) -> accuracy_gate.Gate:
        raise accuracy_gate.GateFailed("it agrees in 3 % only")

    monkeypatch.setattr(accuracy_gate, "judge", failed)
    card = publish_with_low_precision(random_weights(CIFAR), tmp_path)
    assert card.files.keys() == {"fp32"}
    assert "resnet8-cifar: published without fp16: it agrees in 3 % only" in caplog.text
    assert read_card(tmp_path / "resnet8-cifar" / "1") == card
