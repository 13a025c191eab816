"""`python -m model_export list`."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from benchmarks.versions import publish_copy
from model_export.__main__ import main
from model_export.cli.list import HEADER
from model_export.versions import promote, set_default
from service.runtime.model_card import Gate
from service.runtime.model_folder import read_card


def test_a_row_for_each_version(models: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "--models-dir", str(models)]) == 0
    header, row = capsys.readouterr().out.splitlines()
    assert re.split(r"  +", header) == list(HEADER)
    assert row.split()[:8] == ["resnet8-cifar", "1", "resnet8-cifar", "8", "v1.5", "A", "10", "?"]


def test_what_requests_mean_a_version_by(models: Path, capsys: pytest.CaptureFixture[str]) -> None:
    publish_copy(models, "resnet8-cifar", 2)
    publish_copy(models, "resnet8-cifar", 3)
    promote(models, "resnet8-cifar", 2)
    promote(models, "resnet8-cifar", 3, "canary")
    set_default(models, "resnet8-cifar")
    assert main(["list", "--models-dir", str(models)]) == 0
    rows = [re.split(r"  +", row)[1:3] for row in capsys.readouterr().out.splitlines()[1:]]
    assert rows == [["1", "-"], ["2", "default, resnet8-cifar, @stable"], ["3", "@canary"]]


def test_bf16_is_a_precision_without_a_file(models: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = models / "resnet8-cifar" / "1" / "card.json"
    card = read_card(path.parent)
    gate = Gate(dataset="pictures", images=100, top1_agreement=1, limit=0.01)
    files = {"fp32": card.files["fp32"].model_copy(update={"bf16": gate})}
    path.write_text(card.model_copy(update={"files": files}).to_json())
    assert main(["list", "--models-dir", str(models)]) == 0
    assert re.split(r"  +", capsys.readouterr().out.splitlines()[1])[-2] == "fp32, bf16"


def test_nothing_published(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "--models-dir", str(tmp_path / "models")]) == 0
    assert "python -m model_export quickstart" in capsys.readouterr().out


def test_a_file_instead_of_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "models").write_text("")
    assert main(["list", "--models-dir", str(tmp_path / "models")]) == 0
    assert f"{tmp_path}/models is a file, not a model folder: give" in capsys.readouterr().out


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
