"""The types of options, and what is checked before any work."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

import pytest

from model_export.__main__ import main
from model_export.cli.options import check_writable, path, seed, weights
from model_export.errors import InputError
from model_export.quantise.images import open_parts

SHORT = ["--recipe", "paper-cifar", "--depth", "8", "--steps", "1", "--device", "cpu", "--workers", "0"]
DRAWN = ["--data", "drawings:train=12,val=12,side=32", *SHORT]


def test_a_tilde_is_the_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Shells leave it as it is behind an equals sign."""
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
    assert open_parts("~/pictures").train.name == "pictures/train"


def test_paths_that_are_none() -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="it is empty: give a path"):
        path("")
    with pytest.raises(argparse.ArgumentTypeError, match=r"'m\\udcf6d' is no UTF-8 text: rename it"):
        path(os.fsdecode(b"m\xf6d"))


@pytest.mark.parametrize("text", ["-1", str(2**32), "1.5", "one"])
def test_seeds_that_are_none(text: str) -> None:
    with pytest.raises((argparse.ArgumentTypeError, ValueError)):
        seed(text)
    assert seed(str(2**32 - 1)) == 2**32 - 1


def test_what_cannot_be_written_into_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    check_writable(tmp_path)
    check_writable(tmp_path / "new" / "newer")
    for folder in (tmp_path / "file", tmp_path / "file" / "new"):
        with pytest.raises(InputError, match=rf"^{tmp_path}/file is a file: give a folder, or the name of a new one$"):
            check_writable(folder)
    with pytest.raises(InputError, match=r"^/\S+ cannot be written into: let this user write there"):
        check_writable(read_only())


def read_only() -> Path:
    """A folder that nobody can write into, not even root."""
    for folder in (Path("/sys"), Path("/proc/1")):
        if not os.access(folder, os.W_OK):
            return folder / "new"
    pytest.skip("every folder here can be written into")


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
    ("options", "said"),
    [
        (["--workers", "99999"], "argument --workers: 99999 is not between 0 and "),
        (["--workers", "-1"], "argument --workers: -1 is not between 0 and "),
        (["--seed", "-1"], "argument --seed: -1 is not between 0 and 2^32 - 1"),
        (["--checkpoint-minutes", "inf"], "argument --checkpoint-minutes: inf is no time"),
        (["--out", ""], "argument --out: it is empty: give a path"),
    ],
)
def test_numbers_that_cannot_be_meant(options: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["train", *DRAWN, *options])
    assert said in capsys.readouterr().err


def test_a_rate_without_end_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", *DRAWN, "--lr", "1e400"]) == 1
    assert "recipe paper-cifar: lr: " in capsys.readouterr().err


def run(*arguments: object, stdout: int) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "model_export", *map(str, arguments)]
    return subprocess.run(command, stdout=stdout, stderr=subprocess.PIPE, text=True, timeout=120)


def test_a_reader_that_has_gone_is_no_fault(models_dir: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    finished = run("list", "--models-dir", models_dir, stdout=writer)
    os.close(writer)
    assert (finished.returncode, finished.stderr) == (1, "")


def test_a_full_disk_is_one_sentence(models_dir: Path) -> None:
    with Path("/dev/full").open("w") as full:
        finished = run("list", "--models-dir", models_dir, stdout=full.fileno())
    assert (finished.returncode, finished.stderr) == (1, "error: No space left on device\n")
