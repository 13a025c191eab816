"""`python -m model_export list`."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from model_export.__main__ import main
from model_export.cli.list import HEADER


def test_a_row_for_each_version(models: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "--models-dir", str(models)]) == 0
    header, row = capsys.readouterr().out.splitlines()
    assert header.split() == list(HEADER)
    assert row.split()[:8] == ["resnet8-cifar", "1", "8", "v1.5", "A", "10", "?", "0"]


def test_nothing_published(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "--models-dir", str(tmp_path / "models")]) == 0
    assert "python -m model_export quickstart" in capsys.readouterr().out


def test_it_continues_after_an_unreadable_card(
    models: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    (models / "broken" / "1").mkdir(parents=True)
    assert main(["list", "--models-dir", str(models)]) == 0
    assert "resnet8-cifar" in capsys.readouterr().out
    assert "broken 1: " in caplog.text


def test_only_unreadable_cards(
    models: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    shutil.rmtree(models / "resnet8-cifar")
    (models / "broken" / "1").mkdir(parents=True)
    assert main(["list", "--models-dir", str(models)]) == 0
    assert "quickstart" in capsys.readouterr().out
    assert "broken 1: " in caplog.text
