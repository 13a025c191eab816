"""The types of options, and what is checked before any work."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import pytest

from model_export.__main__ import main
from model_export.cli.options import check_writable, path, seed
from model_export.cli.weight_options import weights
from model_export.errors import InputError
from model_export.quantise.images import open_calibration_data

SHORT = ["--recipe", "paper-cifar", "--depth", "8", "--steps", "1", "--device", "cpu", "--workers", "0"]
DRAWN = ["--data", "drawings:train=12,val=12,side=32", *SHORT]


@pytest.mark.usefixtures("quick_export")
def test_a_tilde_is_the_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Shells do not expand it after an equals sign."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert path("~/m") == tmp_path / "m"
    assert path("m~") == Path("m~")
    assert weights("~/net.pth") == str(tmp_path / "net.pth")
    assert weights("random") == "random"
    options = ["--weights", "random", "--depth", "8", "--family", "cifar", "--models-dir=~/models"]
    assert main(["export", *options]) == 0
    assert (tmp_path / "models" / "resnet8-cifar" / "1" / "card.json").exists()
    assert not (tmp_path / "~").exists()
    assert main(["draw", "~/pictures", "--train", "24", "--val", "12", "--side", "32"]) == 0
    assert main(["train", "--data", "~/pictures", *SHORT, "--out", "~/run"]) == 0
    assert (tmp_path / "run" / "best.safetensors").exists()
    assert open_calibration_data("~/pictures").train.name == "pictures/train"


def test_invalid_paths() -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="empty path: give a file or a folder"):
        path("")
    with pytest.raises(argparse.ArgumentTypeError, match=r"not valid UTF-8: 'm\\udcf6d': rename it"):
        path(os.fsdecode(b"m\xf6d"))


@pytest.mark.parametrize("text", ["-1", str(2**32), "1.5", "one"])
def test_invalid_seeds(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match=f"^not a valid seed: '{text}'"):
        seed(text)


def test_the_largest_seed() -> None:
    assert seed(str(2**32 - 1)) == 2**32 - 1


def test_a_folder_that_is_not_writable(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    check_writable(tmp_path)
    check_writable(tmp_path / "new" / "newer")
    for folder in (tmp_path / "file", tmp_path / "file" / "new"):
        with pytest.raises(InputError, match=rf"^{tmp_path}/file is a file: give a folder, or the name of a new one$"):
            check_writable(folder)
    with pytest.raises(InputError, match=r"^/\S+ is not writable: make it writable for this user"):
        check_writable(read_only())


def read_only() -> Path:
    """A folder that nobody can write to, not even root."""
    for folder in (Path("/sys"), Path("/proc/1")):
        if not os.access(folder, os.W_OK):
            return folder / "new"
    pytest.skip("every folder here is writable")


@pytest.mark.parametrize(
    "command",
    [
        ["export", "--weights", "random", "--depth", "8", "--family", "cifar", "--models-dir", "FILE"],
        ["quickstart", "--models-dir", "FILE"],
        ["quantize", "net", "--data", "drawings", "--models-dir", "FILE"],
        ["evaluate", "net", "--data", "drawings", "--out", "FILE"],
        ["train", *DRAWN, "--out", "FILE"],
        ["study", "depth", "--out", "FILE"],
        ["draw", "FILE/x", "--train", "12", "--val", "12"],
    ],
)
def test_where_results_go_is_checked_before_the_work(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    assert main([part.replace("FILE", str(tmp_path / "file")) for part in command]) == 1
    *_, last = capsys.readouterr().err.splitlines()
    assert last == f"error: {tmp_path}/file is a file: give a folder, or the name of a new one"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--workers", "99999"], "argument --workers: must be between 0 and "),
        (["--workers", "-1"], "argument --workers: must be between 0 and "),
        (["--seed", "-1"], "argument --seed: not a valid seed: '-1' (expected 0 to 2^32 - 1)"),
        (["--checkpoint-minutes", "inf"], "argument --checkpoint-minutes: not a valid number of minutes: 'inf'"),
        (["--out", ""], "argument --out: empty path: give a file or a folder"),
    ],
)
def test_invalid_numbers_and_paths(options: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["train", *DRAWN, *options])
    assert message in capsys.readouterr().err


def test_an_infinite_learning_rate_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", *DRAWN, "--lr", "1e400"]) == 1
    assert "recipe paper-cifar: lr: " in capsys.readouterr().err
