"""`find-lr` as a user runs it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from PIL import Image

from model_export.__main__ import main

DRAWN = "drawings:train=96,val=48,side=32,difficulty=easy,classes=circle+cross+stripes"
RUN = ["--recipe", "paper-cifar", "--depth", "8", "--batch-size", "24", "--workers", "0", "--precision", "fp32"]


@pytest.mark.slow
def test_it_suggests_a_learning_rate_and_draws_the_loss(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    options = ["--optimizer", "adamw", "--test-steps", "60", "--highest", "1"]
    assert main(["find-lr", "--data", DRAWN, *RUN, *options, "--picture", "lr.png"]) == 0
    found = re.fullmatch(r"--lr (\S+)\n", capsys.readouterr().out)
    assert found
    assert 1e-5 < float(found[1]) < 1
    assert [path.name for path in tmp_path.iterdir()] == ["lr.png"]
    with Image.open(tmp_path / "lr.png") as picture:
        assert picture.width == 1000


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--lr", "0.1"], "--lr has no use here: the test decides it, and how long it takes: leave it out"),
        (["--epochs", "3"], "--epochs has no use here"),
        (["--lowest", "2", "--highest", "1"], "learning rates from 2 to 1 do not rise"),
        (["--log-to", "wandb"], "--log-to only applies to train: leave it out"),
        (["--picture", "/dev/null/x.png"], "give a folder"),
    ],
)
def test_errors_are_one_sentence(options: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["find-lr", "--data", DRAWN, *RUN, *options]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert message in error


def test_no_data(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["find-lr", *RUN]) == 1
    assert "no data to train on: give --data" in capsys.readouterr().err
