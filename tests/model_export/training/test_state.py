"""The state of a run, as a checkpoint holds it."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch

from model_export.training import checkpoint
from model_export.training.distributed import Processes
from model_export.training.machine import Machine
from model_export.training.recipe import Recipe, override

from .conftest import PLAIN_CPU, RICH, SHORT, MakeTrainer, assert_same_weights

KEYS = {
    "format", "architecture", "preprocessing", "labels", "accuracy", "mean_image", "palette", "state_dict", "optimizer",
    "scaler", "schedule", "recipe", "machine", "about", "seed", "step", "rows", "seconds", "sums",
    "training_seconds", "best", "training", "test_sha256", "started_from", "head",
}  # fmt: skip
MACHINE_KEYS = {"device", "precision", "channels_last", "compile", "workers", "checkpoint_minutes", "keep", "log_to"}


@pytest.mark.parametrize(
    ("recipe", "keys"), [(SHORT, KEYS), (RICH, KEYS | {"state_dict_ema"})], ids=["paper", "everything"]
)
def test_checkpoints_keep_their_keys(recipe: Recipe, keys: set[str], trainer: MakeTrainer, tmp_path: Path) -> None:
    run = trainer(recipe)
    rows = run.run()
    content = checkpoint.load(tmp_path / "run")
    assert content.keys() == keys
    assert content["machine"].keys() == MACHINE_KEYS
    assert content["schedule"].keys() == {"drops", "best_error", "stalled", "running_error", "warming_up"}
    assert content["rows"] == [list(row) for row in rows]
    assert content["best"] == [list(entry) for entry in run.state.best.kept]
    assert (content["step"], content["sums"], content["training_seconds"]) == (12, [0.0, 0.0, 0.0], 0.0)


def test_content_restores_the_state(trainer: MakeTrainer) -> None:
    run, other = trainer(RICH), trainer(RICH, folder="other", seed=1)
    run.run()
    run.state.sums += torch.tensor([1.5, 2.0, 3.0])
    run.state.training_seconds = 4.0
    other.state.restore(run.state.content(run.processes), other.processes)
    ours, theirs = other.state.content(other.processes), run.state.content(run.processes)
    assert ours.keys() == theirs.keys()
    for key in ("step", "rows", "seconds", "sums", "training_seconds", "best", "schedule"):
        assert ours[key] == theirs[key], key
    assert other.state.rows == run.state.rows
    assert_same_weights(other.net, run.net)
    assert_same_weights(other.state.evaluated_net, run.state.evaluated_net)


def test_only_the_first_process_takes_over_the_totals(trainer: MakeTrainer) -> None:
    run = trainer()
    content = run.state.content(run.processes) | {"sums": [1.0, 2.0, 3.0]}
    for rank, sums in ((0, [1.0, 2.0, 3.0]), (1, [0.0, 0.0, 0.0])):
        run.state.restore(content, Processes(rank, 2, torch.device("cpu")))
        assert run.state.sums.tolist() == sums


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("channels_last", [True, False])
def test_a_run_goes_on_alike_in_the_other_memory_layout(
    optimizer: str, channels_last: bool, trainer: MakeTrainer
) -> None:
    """The fused optimisers pair the elements of a weight with those of its momentum by their places in memory."""
    recipe = override(SHORT, {"optimizer": optimizer})
    begun = trainer(recipe, machine=Machine(precision="fp32", workers=0, channels_last=channels_last))
    batches = begun.feed.training(0)
    for _ in range(2):
        begun.train_step(next(batches))
    resumed = trainer(recipe, machine=Machine(precision="fp32", workers=0, channels_last=not channels_last))
    resumed.state.restore(copy.deepcopy(begun.state.content(begun.processes)), resumed.processes)
    for run in (begun, resumed):  # a step of momentum alone
        for parameter in run.net.parameters():
            parameter.grad = torch.zeros_like(parameter)
        run.state.optimizer.step()
    for (name, ours), theirs in zip(resumed.net.named_parameters(), begun.net.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, msg=name)


def test_a_run_may_change_to_float16_and_back(trainer: MakeTrainer) -> None:
    """A run in another precision has no scale of the loss to hand over."""
    half = Machine(precision="fp16", workers=0)
    for before, after in ((PLAIN_CPU, half), (half, PLAIN_CPU)):
        begun, resumed = trainer(machine=before), trainer(machine=after)
        resumed.state.restore(begun.state.content(begun.processes), resumed.processes)
        assert resumed.state.scaler.is_enabled() == (after is half)
