"""The `convert` command."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from model_export.__main__ import main
from model_export.weights.loading import load_file
from tests.model_export.weights.weight_files import imagenet_file, meta_resnet
from tests.support.disks import small_disk_at


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """Of a ResNet-18 with three classes."""
    (tmp_path / "labels.txt").write_text("red\ngreen\nblue\n")
    return imagenet_file(tmp_path / "net.pth", meta_resnet(18, num_classes=3))


def test_for_timm_and_back(tmp_path: Path, weights: Path, caplog: pytest.LogCaptureFixture) -> None:
    out = tmp_path / "new" / "timm"
    assert main(["convert", str(weights), "--depth", "18", "--to", "timm", "--out", str(out)]) == 0
    assert sorted(path.name for path in out.iterdir()) == ["config.json", "model.safetensors"]
    assert f"{out}: wrote config.json, model.safetensors" in caplog.text
    assert [label.name for label in load_file(out / "model.safetensors").labels] == ["red", "green", "blue"]
    assert [path.name for path in out.parent.iterdir()] == ["timm"]


def test_for_torchvision(tmp_path: Path, weights: Path) -> None:
    out = tmp_path / "torchvision"
    assert main(["convert", str(weights), "--depth", "18", "--to", "torchvision", "--out", str(out)]) == 0
    state = torch.load(out / "resnet18.pth")
    assert {name: tensor.shape for name, tensor in state.items()} == {
        name: tensor.shape for name, tensor in meta_resnet(18, num_classes=3).state_dict().items()
    }


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        (["--depth", "18", "--shortcut", "A"], "pass `--shortcut B`"),
        ([], "pass `--depth`"),
    ],
)
def test_nothing_is_written_on_an_error(
    tmp_path: Path, weights: Path, options: list[str], fault: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "timm"
    assert main(["convert", str(weights), *options, "--to", "timm", "--out", str(out)]) == 1
    assert fault in capsys.readouterr().err
    assert not out.exists()


def test_a_network_that_timm_does_not_have(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "labels.txt").write_text("red\ngreen\nblue\n")
    path = imagenet_file(tmp_path / "net.pth", meta_resnet(18, shortcut="A", num_classes=3))
    options = ["--depth", "18", "--shortcut", "A", "--to", "timm", "--out", str(tmp_path / "timm")]
    assert main(["convert", str(path), *options]) == 1
    assert "net.pth cannot be converted for timm: it holds a network with shortcut A" in capsys.readouterr().err
    assert not (tmp_path / "timm").exists()


def test_a_folder_with_files_is_not_overwritten(
    tmp_path: Path, weights: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["convert", str(weights), "--depth", "18", "--to", "timm", "--out", str(tmp_path)]) == 1
    assert f"{tmp_path} is not an empty folder" in capsys.readouterr().err


@pytest.mark.parametrize("target", ["timm", "torchvision"])
def test_a_full_disk_is_told_in_one_sentence(
    target: str, tmp_path: Path, weights: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """PyTorch aborts the process where it cannot write to a file."""
    with small_disk_at(tmp_path / "small", 2**20) as disk:
        assert main(["convert", str(weights), "--depth", "18", "--to", target, "--out", str(disk / "out")]) == 1
        assert list(disk.iterdir()) == []
    error = capfd.readouterr().err
    assert error.splitlines()[-1].startswith("error: ")
    assert "No space left on device" in error
