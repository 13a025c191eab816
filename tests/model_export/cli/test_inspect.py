"""`python -m model_export inspect`."""

from __future__ import annotations

from pathlib import Path

import pytest

from model_export.__main__ import main


def test_a_card(models: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", "resnet8-cifar", "--models-dir", str(models)]) == 0
    printed = capsys.readouterr().out
    assert "name: resnet8-cifar\n" in printed
    assert "  depth: 8\n" in printed
    assert "  license: not stated\n" in printed
    assert "labels: 10: class 0, class 1, " in printed


def test_all_cards(models: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", "--models-dir", str(models)]) == 0
    assert "name: resnet8-cifar\n" in capsys.readouterr().out


def test_a_version_is_selected(models: Path, capsys: pytest.CaptureFixture[str]) -> None:
    at = ["--models-dir", str(models)]
    assert main(["inspect", "resnet8-cifar", "--version", "1", *at]) == 0
    assert main(["inspect", "resnet8-cifar", "--version", "2", *at]) == 1
    assert "has no version 2: choose from 1" in capsys.readouterr().err


def test_an_empty_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", "nothing", "--models-dir", str(tmp_path / "models")]) == 1
    assert "there is no folder" in capsys.readouterr().err
