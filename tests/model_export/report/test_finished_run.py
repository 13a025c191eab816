from __future__ import annotations

from pathlib import Path

import pytest
import torch

from model_export.datasets.layout import AUTO
from model_export.report.finished_run import report_run
from model_export.training.distributed import Processes
from model_export.training.machine import Machine
from model_export.training.recipe import RECIPES, override
from model_export.training.run import describe_inputs, new_run
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
