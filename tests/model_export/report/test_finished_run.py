from __future__ import annotations

from pathlib import Path

import pytest
import torch

from model_export.datasets.drawings import Drawings
from model_export.datasets.holding_out import Fold
from model_export.datasets.layout import AUTO
from model_export.drawings.pictures import STYLES
from model_export.report.finished_run import report_run
from model_export.training.checkpoint import load
from model_export.training.distributed import Processes
from model_export.training.machine import Machine
from model_export.training.recipe import override
from model_export.training.recipes import RECIPES
from model_export.training.run import describe_inputs, new_run, resumed_run
from model_export.weights.loading import load_file
from service.runtime.model_card import Architecture


def test_the_report_and_the_accuracy_of_the_best_weights(tmp_path: Path) -> None:
    drawn = "drawings:train=24,val=12,side=32,difficulty=easy,classes=circle+cross"
    trainer = new_run(
        Architecture(depth=8, family="cifar", shortcut="A"),
        override(RECIPES["paper-cifar"], {"steps": 1, "batch_size": 24}),
        describe_inputs(drawn, val_share=0.1, broken="refuse", layout=AUTO),
        tmp_path,
        loaded=None,
        seed=0,
        machine=Machine(device="cpu", precision="fp32", workers=0),
        processes=Processes(0, 1, torch.device("cpu")),
    )
    rows = trainer.run()
    assert load_file(tmp_path / "best.safetensors").accuracy is None
    evaluation = report_run(trainer, rows)
    accuracy = load_file(tmp_path / "best.safetensors").accuracy
    assert accuracy is not None
    assert accuracy.images == len(evaluation.labels) == 12
    assert 1 - accuracy.top1 == pytest.approx(rows[-1].val_error)
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    page = (tmp_path / "report.html").read_text()
    assert "resnet8-cifar on " in page
    assert drawn in page
    wrong = int((evaluation.probabilities.argmax(1) != evaluation.labels).sum())
    assert (tmp_path / "mistakes.html").read_text().count("data:image/jpeg") == wrong
    assert "these images have chosen the weights" in page


def test_a_test_part_measures_what_the_validation_part_has_chosen(tmp_path: Path) -> None:
    pictures = Drawings(seed=0, count=60, classes=("circle", "cross"), style=STYLES["easy"].square(32))
    for i in range(60):
        part = "test" if i >= 48 else "train"
        path = tmp_path / "pictures" / part / pictures.classes[pictures.labels[i]] / f"{i}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(pictures.read(i))
    trainer = new_run(
        Architecture(depth=8, family="cifar", shortcut="A"),
        override(RECIPES["paper-cifar"], {"steps": 1, "batch_size": 24}),
        describe_inputs(str(tmp_path / "pictures"), val_share=0.1, fold=Fold(2, 3), broken="refuse", layout=AUTO),
        tmp_path / "run",
        loaded=None,
        seed=0,
        machine=Machine(device="cpu", precision="fp32", workers=0),
        processes=Processes(0, 1, torch.device("cpu")),
    )
    rows = trainer.run()
    assert (len(trainer.data.train), len(trainer.data.val)) == (32, 16)
    evaluation = report_run(trainer, rows)
    assert (evaluation.dataset, len(evaluation.labels)) == ("pictures/test", 12)
    accuracy = load_file(tmp_path / "run" / "best.safetensors").accuracy
    assert accuracy is not None
    assert (accuracy.dataset, accuracy.images) == ("pictures/test", 12)
    page = (tmp_path / "run" / "report.html").read_text()
    assert "of 12 images, pictures/test, used once, after the training" in page
    assert f"16 images, pictures/train (val): top-1 {100 * (1 - rows[0].val_error):.2f}%" in page
    resumed = resumed_run(
        tmp_path / "run", load(tmp_path / "run"), machine=trainer.machine, processes=trainer.processes
    )
    assert len(resumed.data.val) == 16
