"""New and resumed runs, without the command line."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from model_export.datasets.layout import AUTO, Layout
from model_export.training import checkpoint
from model_export.training.distributed import Processes
from model_export.training.machine import Machine
from model_export.training.recipe import override
from model_export.training.recipes import RECIPES
from model_export.training.run import describe_inputs, new_run, resumed_run
from service.runtime.model_card import Architecture

DRAWN = "drawings:train=24,val=12,side=32,difficulty=easy,classes=circle+cross"
ALONE = Processes(0, 1, torch.device("cpu"))
MACHINE = Machine(device="cpu", precision="fp32", workers=0)


def test_a_folder_is_stored_by_its_absolute_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    inputs = describe_inputs("pictures", val_share=0.2, broken="skip", layout=Layout("none", ("old",)))
    assert inputs == {
        "data": str(tmp_path / "pictures"),
        "val_share": 0.2,
        "folds": None,
        "fold": None,
        "broken": "skip",
        "split": "none",
        "ignore": ("old",),
        "weights": "He initialisation",
    }
    cifar10 = describe_inputs("cifar10:downloads", val_share=0.1, broken="refuse", layout=AUTO)
    assert cifar10["data"] == f"cifar10:{tmp_path / 'downloads'}"
    assert describe_inputs(DRAWN, val_share=0.1, broken="refuse", layout=AUTO)["data"] == DRAWN


def test_a_resumed_run_has_the_settings_of_its_checkpoint(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "model_export")
    recipe = override(RECIPES["paper-cifar"], {"steps": 1, "batch_size": 24})
    inputs = describe_inputs(DRAWN, val_share=0.1, broken="refuse", layout=AUTO)
    architecture = Architecture(depth=8, family="cifar", shortcut="A")
    folder = tmp_path / "new" / "run"
    first = new_run(architecture, recipe, inputs, folder, loaded=None, seed=3, machine=MACHINE, processes=ALONE)
    assert first.net.architecture.num_classes == 2
    assert "resnet8-cifar (v1.5, shortcut A, 2 classes, " in caplog.text
    first.run()
    resumed = resumed_run(folder, checkpoint.load(folder), machine=MACHINE, processes=ALONE)
    assert (resumed.recipe, resumed.seed, resumed.about) == (recipe, 3, inputs)
    assert "resuming after step 1 of 1" in caplog.text
