"""Runs on images with several labels: what they measure, record and report."""

from __future__ import annotations

import csv
import math
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from model_export.datasets.base import Data
from model_export.datasets.by_name import open_data
from model_export.datasets.drawings import DrawingsOfSeveral
from model_export.datasets.in_memory import InMemory
from model_export.errors import InputError
from model_export.evaluation.average_precision import mean_average_precision
from model_export.report.finished_multi_label import report_multi_label_run
from model_export.training import checkpoint
from model_export.training.distributed import Processes
from model_export.training.history import read_history, summary
from model_export.training.recipe import Recipe, override
from model_export.training.start import begin, resume
from model_export.training.stopping import Stopped
from model_export.training.trainer import Trainer
from model_export.training.validation import validate_multi_label
from model_export.weights.loading import load_file
from service.runtime.head import Head

from .conftest import CIFAR8, PLAIN_CPU, RICH, SHORT, Interrupting, assert_same_weights

MIXED = override(RICH, {"label_smoothing": 0.1, "class_weights": "balanced"})


@pytest.fixture(scope="module")
def several() -> Data:
    return open_data("drawings:train=96,val=48,side=64,difficulty=easy,classes=circle+cross+stripes,figures=3")


def trainer(data: Data, folder: Path, recipe: Recipe = SHORT, kind: type[Trainer] = Trainer) -> Trainer:
    folder.mkdir()
    return kind(begin(CIFAR8, recipe, data.train), recipe, data, folder, machine=PLAIN_CPU, shown=False)


def test_a_process_may_have_no_image_to_validate_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two processes, one has all of these images."""
    logits, truth = torch.randn(4, 3), torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 0]])
    net, alone = torch.nn.Identity(), Processes(0, 1, torch.device("cpu"))
    whole = validate_multi_label(net, [(logits, truth)], nullcontext(), alone)
    shares = list[Any]()

    def gathered(_: Processes, share: Any) -> list[Any]:
        shares.append(share)
        return shares

    monkeypatch.setattr(Processes, "gathered", gathered)
    for batches in ([(logits[:1], truth[:1]), (logits[1:], truth[1:])], []):
        both = validate_multi_label(net, batches, nullcontext(), alone)
    assert len(shares) == 2
    assert both[:2] == pytest.approx(whole[:2])


def test_what_a_run_measures(several: Data, tmp_path: Path) -> None:
    run = trainer(several, tmp_path / "run", override(SHORT, {"epochs": 1, "recompute_bn": 0}))
    (row,) = run.run()
    net = run.net.eval()
    images = torch.cat([batch.images for batch in run.feed.validation()])
    with torch.no_grad():
        logits = net(run.feed.normalise(images))
    truth = several.val.labels
    assert row.val_error == pytest.approx(1 - mean_average_precision(truth > 0, logits.numpy()))
    loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, torch.from_numpy(truth))
    assert row.val_loss == pytest.approx(float(loss), rel=1e-4)
    assert 0 < row.train_error < 1
    assert math.isnan(row.val_top5_error)
    assert f"mAP {100 * (1 - row.val_error):.1f} %" in summary(row)
    (read,) = read_history(tmp_path / "run" / "metrics.csv")
    assert read.multi_label


def test_a_stopped_and_resumed_run_ends_like_an_uninterrupted_one(several: Data, tmp_path: Path) -> None:
    whole = trainer(several, tmp_path / "whole", MIXED)
    whole.run()
    with pytest.raises(Stopped):
        trainer(several, tmp_path / "cut", MIXED, Interrupting).run()
    content = checkpoint.load(tmp_path / "cut")
    resumed = Trainer(
        resume(content), MIXED, several, tmp_path / "cut", machine=PLAIN_CPU, resumed=content, shown=False
    )
    resumed.run()
    assert resumed.start.head == Head(kind="sigmoid")
    assert_same_weights(resumed.net, whole.net)


@pytest.mark.slow
def test_the_best_weights_know_their_head_and_accuracy(several: Data, tmp_path: Path) -> None:
    run = trainer(several, tmp_path / "run")
    rows = run.run()
    accuracy = report_multi_label_run(run, rows)
    loaded = load_file(tmp_path / "run" / "best.safetensors")
    assert (loaded.head, loaded.accuracy) == (Head(kind="sigmoid"), accuracy)
    assert accuracy.mean_average_precision == pytest.approx(1 - min(row.val_error for row in rows), abs=0.01)
    assert "not answered" in (tmp_path / "run" / "mistakes.html").read_text()
    page = (tmp_path / "run" / "report.html").read_text()
    assert "mean average precision" in page
    assert "stripes" in page
    assert (tmp_path / "run" / "curves.png").read_bytes().startswith(b"\x89PNG")
    with (tmp_path / "run" / "metrics.csv").open(newline="") as file:
        assert {line["val_top5_error"] for line in csv.DictReader(file)} == {"nan"}


def test_validation_images_without_any_class_choose_nothing(several: Data, tmp_path: Path) -> None:
    assert isinstance(several.val, InMemory)
    empty = InMemory("empty", several.val.classes, several.val.images, np.zeros_like(several.val.labels))
    with pytest.raises(InputError, match="no image of empty has a class, so the best weights cannot be told"):
        trainer(Data(several.train, empty), tmp_path / "run")


def test_drawings_of_several_show_what_their_labels_say() -> None:
    data = DrawingsOfSeveral(seed=3, count=200, figures=2, classes=("circle", "cross", "star"))
    counts = data.labels.sum(axis=1)
    assert set(counts.tolist()) == {0, 1, 2}
    assert (data.labels.sum(axis=0) > 40).all()
    part = DrawingsOfSeveral(seed=3, count=10, first=5, figures=2, classes=("circle", "cross", "star"))
    np.testing.assert_array_equal(part.labels, data.labels[5:15])
    assert part.read(0) == data.read(5)
    assert part.digest() != DrawingsOfSeveral(seed=3, count=10, first=5, figures=3, classes=part.classes).digest()


@pytest.mark.parametrize("spec", ["drawings:figures=0", "drawings:figures=5", "drawings:figures=2,side=48"])
def test_drawings_that_cannot_show_so_many(spec: str) -> None:
    with pytest.raises(InputError, match=r"drawings cannot have .*figures="):
        open_data(spec)
