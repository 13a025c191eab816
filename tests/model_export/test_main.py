"""The command line, called as `python -m model_export` calls it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from model_export.__main__ import main
from model_export.random_weights import random_weights
from model_export.resnet import build
from model_export.weight_files import Record, save_safetensors
from service.card import Architecture, ModelCard, published

CIFAR = Architecture(depth=8, family="cifar", shortcut="A", num_classes=10)
CIFAR_OPTIONS = ["--family", "cifar", "--depth", "8"]


@pytest.fixture
def folder(models_dir: Path, tmp_path: Path) -> Path:
    shutil.copytree(models_dir / "resnet8-cifar", tmp_path / "models" / "resnet8-cifar")
    return tmp_path / "models"


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    path = tmp_path / "net.safetensors"
    save_safetensors(random_weights(CIFAR).net.state_dict(), path, Record(architecture=CIFAR))
    (tmp_path / "labels.txt").write_text("\n".join(f"kind {i}" for i in range(10)))
    return path


def test_export_of_a_file(checkpoint: Path, tmp_path: Path) -> None:
    options = ["--weights", str(checkpoint), *CIFAR_OPTIONS, "--models-dir", str(tmp_path / "m"), "--name", "mine"]
    preprocessing = ["--resize", "36", "--interpolation", "bicubic", "--mean", "0.5", "0.5", "0.5"]
    assert main(["export", *options, *preprocessing]) == 0
    card = ModelCard.read(tmp_path / "m" / "mine" / "1")
    assert card.labels[3].name == "kind 3"
    assert card.weights.source == "net.safetensors"
    assert card.weights.sha256
    p = card.preprocessing
    assert (p.resize, p.crop, p.interpolation, p.mean) == (36, 32, "bicubic", (0.5, 0.5, 0.5))


def test_list_inspect_and_verify(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    at = ["--models-dir", str(folder)]
    assert main(["list", *at]) == 0
    assert capsys.readouterr().out.splitlines()[1].split()[:3] == ["resnet8-cifar", "1", "8"]
    assert main(["inspect", "resnet8-cifar", *at]) == 0
    assert "  depth: 8\n" in capsys.readouterr().out
    assert main(["verify", "--provider", "cpu", *at]) == 0
    assert "resnet8-cifar 1: ok: digests match" in capsys.readouterr().out


def test_verify_finds_damage(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = folder / "resnet8-cifar" / "1" / "self_test.npz"
    path.write_bytes(path.read_bytes() + b"x")
    assert main(["verify", "--models-dir", str(folder)]) == 1
    assert "FAILED" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["export", "--weights", "random"], "say which network with --depth"),
        (["export", "--weights", "random", "--depth", "19"], "no ImageNet ResNet has depth 19"),
        (["export", "--weights", "imagenet", "--depth", "50", "--variant", "v1"], "are of v1.5 with option B"),
        (["export", "--weights", "missing.pth", "--depth", "18"], "missing.pth does not exist"),
        (["export", "--weights", "random", "--depth", "18", "--name", "../x"], "is no name for a model"),
        (["export", "--weights", "random", "--depth", "18", "--train"], "--train is for `--weights demo`"),
        (["export", "--weights", "demo", "--crop", "128"], "--crop: only for a FILE of weights: leave it out"),
        (["export", "--weights", "demo", "--depth", "50"], "--depth: only for the other weights (the demo is a"),
        (
            ["export", "--weights", "demo", "--seed", "1"],
            "--seed: only for `--weights random` and `--weights demo --tr",
        ),
        (
            ["export", "--weights", "random", "--depth", "18", "--labels", "x.txt", "--std", "1", "1", "1"],
            "--labels and --std: only for a FILE of weights: leave them out",
        ),
        (
            ["export", "--weights", "imagenet", "--depth", "18", "--resize", "300"],
            "--resize: only for a FILE of weights",
        ),
        (["export", "--weights", "net.pth", "--seed", "0"], "--seed: only for `--weights random`"),
        (["verify"], "there is no folder"),
        (["verify", "--version", "1"], "--version: only for the model that NAME names: leave it out"),
        (["inspect", "nothing"], "there is no folder"),
    ],
)
def test_errors_are_one_sentence(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*arguments, "--models-dir", str(tmp_path / "models")]) == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.startswith("error: ")
    assert "Traceback" not in error
    assert list(published(tmp_path / "models")) == []


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--crop", "288"], "crop 288 is larger than the resized shorter side 36: give --resize, too"),
        (["--mean", "123.675", "116.28", "103.53"], "are of pixels from 0 to 255: divide them by 255"),
        (["--std", "58.395", "57.12", "57.375"], "are of pixels from 0 to 255: divide them by 255"),
    ],
)
def test_preprocessing_that_cannot_be_is_one_sentence(
    checkpoint: Path, tmp_path: Path, options: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    at = ["--models-dir", str(tmp_path / "m"), "--resize", "36"]
    assert main(["export", "--weights", str(checkpoint), *options, *at]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert said in error
    assert error.count("\n") == 1
    assert list(published(tmp_path / "m")) == []


def test_versions_are_chosen(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    at = ["--models-dir", str(folder)]
    assert main(["inspect", "resnet8-cifar", "--version", "1", *at]) == 0
    assert main(["inspect", "resnet8-cifar", "--version", "2", *at]) == 1
    assert "has no version 2: it has 1" in capsys.readouterr().err


def test_quickstart_is_a_command(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert main(["quickstart", "--models-dir", str(folder)]) == 0
    assert "already holds resnet8-cifar; nothing to do" in caplog.text


def test_list_goes_on_past_an_unreadable_card(
    folder: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    (folder / "broken" / "1").mkdir(parents=True)
    assert main(["list", "--models-dir", str(folder)]) == 0
    assert "resnet8-cifar" in capsys.readouterr().out
    assert "broken 1: " in caplog.text


def test_a_variant_that_is_not_recorded_is_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "net.pth"
    torch.save(build(Architecture(depth=50)).state_dict(), path)
    assert main(["export", "--weights", str(path), "--depth", "50", "--models-dir", str(tmp_path / "m")]) == 1
    assert "--variant v1.5" in capsys.readouterr().err
