"""What callbacks are told, and what they cannot do to a run."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import pytest

from model_export.datasets.base import Data
from model_export.errors import InputError
from model_export.report.finished_run import report_run
from model_export.training import checkpoint
from model_export.training.callbacks import Metrics
from model_export.training.distributed import Processes
from model_export.training.recipe import override
from model_export.training.start import resume
from model_export.training.stopping import Stopped
from model_export.training.trainer import Trainer

from .conftest import PLAIN_CPU, SHORT, Interrupting, MakeTrainer


class Recorder:
    """Writes down what it is told."""

    def __init__(self, *, fails: bool = False) -> None:
        self.fails = fails
        self.settings: Mapping[str, object] = {}
        self.folder = Path()
        self.epochs: list[Metrics] = []
        self.end: Metrics = {}

    def on_run_begin(self, folder: Path, settings: Mapping[str, object]) -> None:
        self.folder, self.settings = folder, settings

    def on_epoch_end(self, metrics: Metrics) -> None:
        self.epochs.append(metrics)
        if self.fails:
            raise ConnectionError("no server")

    def on_run_end(self, metrics: Metrics) -> None:
        self.end = metrics


def test_a_callback_is_told_of_the_whole_run(trainer: MakeTrainer, tmp_path: Path) -> None:
    recorder = Recorder()
    run = trainer(callbacks=[recorder], seed=3, about={"data": "drawings", "fold": None})
    rows = run.run()
    assert recorder.folder == tmp_path / "run"
    assert (recorder.settings["network"], recorder.settings["seed"]) == ("resnet8-cifar", 3)
    assert (recorder.settings["lr"], recorder.settings["data"]) == ("0.05", "drawings")
    assert "fold" not in recorder.settings
    assert recorder.epochs == [row._asdict() for row in rows]
    assert not recorder.end
    evaluation = report_run(run, rows)
    assert recorder.end["best_val_error"] == min(row.val_error for row in rows)
    assert recorder.end["val_top1"] == (evaluation.probabilities.argmax(1) == evaluation.labels).mean()
    assert 0 <= recorder.end["val_macro_f1"] <= 1
    assert all(math.isfinite(value) for value in recorder.end.values())


def test_a_resumed_run_continues_to_be_followed(data: Data, trainer: MakeTrainer, tmp_path: Path) -> None:
    first, second = Recorder(), Recorder()
    whole = trainer()
    cut = Interrupting(whole.start, SHORT, data, tmp_path / "run", machine=PLAIN_CPU, shown=False, callbacks=[first])
    with pytest.raises(Stopped):
        cut.run()
    content = checkpoint.load(tmp_path / "run")
    rest = Trainer(
        resume(content),
        SHORT,
        data,
        tmp_path / "run",
        machine=PLAIN_CPU,
        resumed=content,
        shown=False,
        callbacks=[second],
    )
    rest.run()
    assert [metrics["epoch"] for metrics in first.epochs + second.epochs] == [1, 2, 3]
    assert first.settings == second.settings


def test_a_callback_that_fails_does_not_end_the_run(trainer: MakeTrainer, caplog: pytest.LogCaptureFixture) -> None:
    broken, whole = Recorder(fails=True), Recorder()
    rows = trainer(override(SHORT, {"epochs": 2}), callbacks=[broken, whole]).run()
    assert len(rows) == len(broken.epochs) == len(whole.epochs) == 2
    assert caplog.text.count("Recorder failed, and the run goes on: no server") == 2


def test_a_callback_can_refuse_a_run(trainer: MakeTrainer) -> None:
    class Refusing(Recorder):
        def on_run_begin(self, folder: Path, settings: Mapping[str, object]) -> None:
            raise InputError("no server")

    run = trainer(callbacks=[Refusing()])
    with pytest.raises(InputError, match="no server"):
        run.run()
    assert run.state.step == 0


def test_only_the_first_process_is_followed(trainer: MakeTrainer) -> None:
    run = trainer(callbacks=[Recorder()])
    second = Processes(1, 2, run.device)
    assert run.callbacks.callbacks
    assert not trainer_of(run, second).callbacks.callbacks


def trainer_of(run: Trainer, processes: Processes) -> Trainer:
    """The same run in another process, whose network is not wrapped: no group is joined here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("model_export.training.trainer.data_parallel", lambda net, _: net)
        return Trainer(
            run.start, run.recipe, run.data, run.folder, machine=PLAIN_CPU, processes=processes, callbacks=[Recorder()]
        )
