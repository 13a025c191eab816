"""`python -m model_export quantize`, from its options to what is published."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.versions import publish_copy
from model_export.__main__ import main
from model_export.cli import quantize as quantize_command
from model_export.datasets.base import Data
from model_export.drawings.pictures import picture
from service.runtime.model_folder import read_card


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty images without labels."""
    root = tmp_path_factory.mktemp("pictures")
    for i in range(40):
        (root / f"{i}.jpg").write_bytes(picture(7, i))
    return root


def quantize(models: Path, *arguments: object, version: str = "") -> int:
    return main(["quantize", f"resnet8-cifar{version}", "--models-dir", str(models), *map(str, arguments)])


def test_a_folder_without_labels(models: Path, pictures: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert quantize(models, "--data", pictures, "--method", "entropy", "--images", 16, "--limit", 100) == 0
    card = read_card(models / "resnet8-cifar" / "2")
    file = card.files["int8"]
    assert file.quantisation is not None
    assert file.gate is not None
    assert (file.quantisation.method, file.quantisation.images) == ("entropy", 16)
    assert (file.gate.images, file.gate.accuracy_lost, file.gate.limit) == (20, None, 1)
    printed = capsys.readouterr().out
    assert printed.startswith("resnet8-cifar 2: int8, 0.")
    assert (
        f"{100 * file.gate.top1_agreement:.2f} % top-1 agreement with fp32, on 20 images of {pictures.name}" in printed
    )

    assert main(["list", "--models-dir", str(models)]) == 0
    first, second = capsys.readouterr().out.splitlines()[1:]
    assert "fp32, int8" not in first
    assert "fp32, int8" in second
    assert main(["inspect", "resnet8-cifar", "--models-dir", str(models)]) == 0
    assert json.loads(capsys.readouterr().out)["files"]["int8"]["gate"]["top1_agreement"] == file.gate.top1_agreement


def test_bf16(models: Path, pictures: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert quantize(models, "--data", pictures, "--precision", "bf16", "--limit", 100) == 0
    card = read_card(models / "resnet8-cifar" / "2")
    gate = card.files["fp32"].bf16
    assert gate is not None
    assert (gate.images, gate.limit) == (20, 1)
    assert capsys.readouterr().out.startswith("resnet8-cifar 2: bf16, ")
    assert quantize(models, "--data", pictures, "--precision", "bf16", "--method", "minmax") == 1
    assert "int8 (bf16 needs no calibration)" in capsys.readouterr().err


@pytest.mark.slow
def test_an_older_version_with_other_weights_does_not_come_back_to_clients(
    models: Path, pictures: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = ["--models-dir", str(models)]
    options = ("--data", pictures, "--precision", "bf16", "--limit", 100, "--held-out", 20)
    other = ["--weights", "random", "--seed", "1", "--depth", "8", "--family", "cifar", "--name", "resnet8-cifar"]
    assert main(["export", *other, *folder]) == 0
    assert quantize(models, *options, version="@1") == 1
    assert "would bring older weights back to them. Run `promote resnet8-cifar@2` first" in capsys.readouterr().err
    assert not (models / "resnet8-cifar" / "3").exists()

    assert main(["promote", "resnet8-cifar@2", *folder]) == 0
    assert quantize(models, *options, version="@1") == 0
    cards = [read_card(models / "resnet8-cifar" / str(number)) for number in (1, 2, 3)]
    assert cards[2].files["fp32"].sha256 == cards[0].files["fp32"].sha256 != cards[1].files["fp32"].sha256
    assert quantize(models, *options) == 0  # of the stable one
    assert read_card(models / "resnet8-cifar" / "4").files["fp32"].sha256 == cards[1].files["fp32"].sha256


def test_fp16_of_an_older_version(models: Path, pictures: Path) -> None:
    for version in (2, 3):
        options = ("--data", pictures, "--precision", "fp16", "--limit", 5, "--held-out", 20)
        assert quantize(models, *options, version="@1") == 0
        assert set(read_card(models / "resnet8-cifar" / str(version)).files) == {"fp32", "fp16"}


def test_what_another_one_publishes_while_the_pictures_are_read_is_not_lost(
    models: Path, pictures: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    open_data = quantize_command.open_calibration_data

    def published_meanwhile(*args: Any) -> Data:
        publish_copy(models, "resnet8-cifar", 2)
        return open_data(*args)

    monkeypatch.setattr(quantize_command, "open_calibration_data", published_meanwhile)
    assert quantize(models, "--data", pictures, "--precision", "bf16", "--limit", 100) == 1
    assert "resnet8-cifar@2 was published in the meantime, with the same weights" in capsys.readouterr().err
    assert not (models / "resnet8-cifar" / "3").exists()


def test_an_unknown_version(models: Path, pictures: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert quantize(models, "--data", pictures, version="@9") == 1
    assert "resnet8-cifar has no version 9: choose from 1" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "fault"),
    [
        (
            ("--data", "PICTURES"),
            "has 20 images to compare on, too few to measure a limit of 1 points: give at least 100",
        ),
        (("--data", "PICTURES", "--precision", "fp16", "--images", "9"), "--images only applies to int8"),
        (("--data", "cifar10", "--split", "none"), "--split only applies to a folder of images: leave it out"),
        (("--data", "/nowhere"), "/nowhere does not exist"),
        (("--data", "drawings:train=1,val=120,side=32,frames=3"), "drawings have no option 'frames'"),
    ],
)
def test_errors_are_one_sentence(
    models: Path, pictures: Path, arguments: tuple[str, ...], fault: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert quantize(models, *(str(pictures) if argument == "PICTURES" else argument for argument in arguments)) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: ")
    assert fault in error
    assert [path.name for path in (models / "resnet8-cifar").iterdir() if path.is_dir()] == ["1"]


def test_an_unknown_name(models: Path, pictures: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["quantize", "resnet9", "--models-dir", str(models), "--data", str(pictures)]) == 1
    assert "there is no model resnet9 in" in capsys.readouterr().err


def test_a_failed_gate_says_what_was_lost(models: Path, pictures: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Percentages of so few images are coarse: a limit of a hair's breadth needs many, no limit at all a hundred."""
    data = "drawings:train=8,val=160,side=32"
    assert quantize(models, "--data", data, "--images", 1, "--limit", 0) == 1
    assert "more was lost than the 0 points allowed" in capsys.readouterr().err
    assert [path.name for path in (models / "resnet8-cifar").iterdir() if path.is_dir()] == ["1"]


@pytest.mark.parametrize("limit", ["-1", "101", "much"])
def test_invalid_limits(models: Path, pictures: Path, limit: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        quantize(models, "--data", pictures, "--limit", limit)
    assert f"argument --limit: not valid percentage points: '{limit}' (expected 0 to 100)" in capsys.readouterr().err
