"""`python -m model_export verify`."""

from __future__ import annotations

from pathlib import Path

import pytest

from model_export.__main__ import main


def test_a_sound_model(models: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", "--provider", "cpu", "--models-dir", str(models)]) == 0
    assert capsys.readouterr().out == ("resnet8-cifar 1: ok: digests match, and the self-test passes on cpu in fp32\n")


def test_a_damaged_file(models: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = models / "resnet8-cifar" / "1" / "self_test.npz"
    path.write_bytes(path.read_bytes() + b"x")
    assert main(["verify", "--models-dir", str(models)]) == 1
    assert "resnet8-cifar 1: FAILED: " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "message"),
    [([], "there is no folder"), (["--version", "1"], "--version only applies to a model given by NAME: leave it out")],
)
def test_errors_are_one_sentence(
    options: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["verify", *options, "--models-dir", str(tmp_path / "models")]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert message in error
