"""`python -m model_export inspect`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from model_export.__main__ import main


def test_a_card(tiny_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", "resnet18", "--models-dir", str(tiny_dir)]) == 0
    printed = json.loads(capsys.readouterr().out)
    card = json.loads((tiny_dir / "resnet18" / "1" / "card.json").read_text())
    names = [label["name"] for label in card["labels"]]
    assert printed == card | {"labels": [*names[:10], "... and 990 more"]}


def test_all_cards(tiny_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", "--models-dir", str(tiny_dir)]) == 0
    first, second = json.loads(capsys.readouterr().out)
    assert (first["name"], second["name"]) == ("resnet18", "resnet8-cifar")
    assert second["labels"] == [f"class {i}" for i in range(10)]


def test_an_empty_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", "nothing", "--models-dir", str(tmp_path / "models")]) == 1
    assert "there is no folder" in capsys.readouterr().err
