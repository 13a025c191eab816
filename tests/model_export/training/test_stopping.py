"""Signals during a run."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from model_export.datasets.base import Data
from model_export.training import checkpoint
from model_export.training.distributed import Processes
from model_export.training.loader import Batch, WorkerDied
from model_export.training.start import begin
from model_export.training.stopping import Stopped, StopSignal

from .conftest import CIFAR8, PLAIN_CPU, SHORT, Interrupting, MakeTrainer


def test_ctrl_c_stops_after_the_step_and_a_second_one_at_once(data: Data, trainer: MakeTrainer, tmp_path: Path) -> None:
    class Twice(Interrupting):
        signum = signal.SIGINT

        def train_step(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
            answer = super().train_step(batch)
            if self.stop.signum is not None:
                os.kill(os.getpid(), signal.SIGINT)
            return answer

    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        Twice(begin(CIFAR8, SHORT, data.train), SHORT, data, tmp_path, machine=PLAIN_CPU, shown=False).run()
    assert signal.getsignal(signal.SIGINT) is before
    assert checkpoint.load(tmp_path)["step"] == 4  # that of the last evaluation


def test_an_evaluation_that_is_cut_short_is_repeated(
    trainer: MakeTrainer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    run = trainer()
    validation = run.feed.validation

    def interrupted() -> Iterator[Batch]:
        os.kill(os.getpid(), signal.SIGTERM)
        return validation()

    monkeypatch.setattr(run.feed, "validation", interrupted)
    with pytest.raises(Stopped, match="after step 4"):
        run.run()
    content = checkpoint.load(tmp_path / "run")
    assert (content["step"], content["rows"]) == (4, [])
    assert content["sums"][2] == 96  # images, for the row to come


@pytest.mark.parametrize("signalled", [True, False])
def test_a_worker_may_die_of_the_same_signal(
    signalled: bool, trainer: MakeTrainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = trainer()
    training = run.feed.training

    def dying(first_step: int) -> Iterator[Batch]:
        yield next(training(first_step))
        if signalled:
            os.kill(os.getpid(), signal.SIGTERM)
        raise WorkerDied("a process that reads images ended")

    monkeypatch.setattr(run.feed, "training", dying)
    with pytest.raises(Stopped if signalled else WorkerDied):
        run.run()
    assert run.state.step == 1


def test_several_processes_vote_every_ten_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Processes, "total", lambda _self, *values: [value + 1 for value in values])  # the other's votes
    stop = StopSignal(Processes(0, 2, torch.device("cpu")))
    assert stop.agreed(9, False) == (False, False)
    assert stop.agreed(10, False) == (True, True)
    stop.signum = signal.SIGTERM
    assert not stop.immediate


def test_a_signal_after_the_last_step_stops_nothing_later() -> None:
    stop = StopSignal(Processes(0, 1, torch.device("cpu")))
    with stop.caught():
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.immediate
    assert not stop.immediate
