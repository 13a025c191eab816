"""The loop: determinism, exact resumption, every option, and every family of networks."""

from __future__ import annotations

import copy
import shutil
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file as load_safetensors

from model_export.datasets.base import Data
from model_export.datasets.in_memory import InMemory
from model_export.datasets.subset import Subset
from model_export.errors import InputError
from model_export.evaluation.metrics import top_k_accuracy
from model_export.nets.resnet import ResNet
from model_export.report.finished_run import report_run
from model_export.training import checkpoint
from model_export.training.history import METRICS_FILE, Row, read_history
from model_export.training.loader import training_batches
from model_export.training.machine import Machine, has_native_bfloat16
from model_export.training.recipe import Recipe, override
from model_export.training.start import begin, resume
from model_export.training.stopping import Stopped
from model_export.training.trainer import Trainer
from model_export.weights.loading import load_file
from model_export.weights.random_weights import random_weights
from service.runtime.measured import Accuracy
from service.runtime.model_card import Architecture, Weights

from .conftest import CIFAR8, PLAIN_CPU, RICH, SHORT, Interrupting, MakeTrainer, assert_same_weights


def cut_and_resumed(data: Data, folder: Path, recipe: Recipe, machine: Machine = PLAIN_CPU) -> Trainer:
    """A run that is stopped after seven steps and resumed by a new trainer from its files."""
    folder.mkdir()
    first = Interrupting(begin(CIFAR8, recipe, data.train), recipe, data, folder, machine=machine, shown=False)
    with pytest.raises(Stopped, match="stopped by SIGTERM after step 7"):
        first.run()
    content = checkpoint.load(folder)
    stored = Recipe.model_validate(content["recipe"])
    second = Trainer(resume(content), stored, data, folder, machine=machine, resumed=content, shown=False)
    assert second.state.step == 7
    second.run()
    return second


def without_times(rows: list[Row]) -> list[Row]:
    return [row._replace(images_per_s=0, seconds=0) for row in rows]


BALANCED = override(SHORT, {"sampling": "balanced", "freeze": "stem"})
WEIGHTED = override(SHORT, {"class_weights": "balanced", "early_stopping": 2})


@pytest.mark.parametrize(
    "recipe", [SHORT, RICH, BALANCED, WEIGHTED], ids=["paper", "everything", "balanced", "weighted"]
)
def test_a_stopped_and_resumed_run_ends_like_an_uninterrupted_one(
    recipe: Recipe, data: Data, trainer: MakeTrainer, tmp_path: Path
) -> None:
    whole = trainer(recipe, folder="whole")
    whole.run()
    cut = cut_and_resumed(data, tmp_path / "cut", recipe)
    assert_same_weights(cut.net, whole.net)
    assert_same_weights(cut.state.evaluated_net, whole.state.evaluated_net)
    assert without_times(cut.state.rows) == without_times(whole.state.rows)
    assert cut.state.best.kept == whole.state.best.kept
    for name in ("best.safetensors", METRICS_FILE):
        assert (tmp_path / "cut" / name).exists()
    ours, theirs = (load_safetensors(tmp_path / folder / "best.safetensors") for folder in ("cut", "whole"))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


@pytest.mark.skipif(not has_native_bfloat16(), reason="bfloat16 is emulated here")
def test_a_run_in_bfloat16_resumes_exactly(data: Data, trainer: MakeTrainer, tmp_path: Path) -> None:
    machine = Machine(precision="bf16", workers=0)
    whole = trainer(SHORT, folder="whole", machine=machine)
    whole.run()
    assert_same_weights(cut_and_resumed(data, tmp_path / "cut", SHORT, machine).net, whole.net)


def test_the_seed_decides_and_the_number_of_workers_does_not(trainer: MakeTrainer) -> None:
    nets = []
    for folder, seed, workers in (("a", 1, 0), ("b", 1, 2), ("c", 2, 0)):
        run = trainer(folder=folder, seed=seed, machine=Machine(precision="fp32", workers=workers))
        run.run()
        nets.append(run.net)
    assert_same_weights(nets[0], nets[1])
    assert not torch.equal(nets[0].fc.weight, nets[2].fc.weight)


def test_rows_describe_the_run(trainer: MakeTrainer, tmp_path: Path) -> None:
    rows = trainer().run()
    assert [(row.step, row.epoch) for row in rows] == [(4, 1.0), (8, 2.0), (12, 3.0)]
    assert [row.lr for row in rows] == pytest.approx([0.05, 0.005, 0.0005])  # milestones at steps 6 and 9
    assert rows[-1].train_loss < rows[0].train_loss
    assert all(0 <= row.val_top5_error <= row.val_error <= 1 and row.images_per_s > 0 for row in rows)
    assert read_history(tmp_path / "run" / METRICS_FILE) == [pytest.approx(row, rel=1e-5) for row in rows]
    assert list((tmp_path / "run" / "tensorboard").iterdir())


def test_the_best_weights_are_kept_and_ready_to_load(trainer: MakeTrainer, tmp_path: Path) -> None:
    run = trainer(override(SHORT, {"epochs": 5}), machine=Machine(precision="fp32", workers=0, keep=2))
    rows = run.run()
    ranked = sorted(rows, key=lambda row: (row.val_error, -row.step))
    kept = {path.name for path in (tmp_path / "run").glob("*.safetensors")}
    assert kept == {"best.safetensors", *(f"step-{row.step:07}.safetensors" for row in ranked[:2])}
    best = tmp_path / "run" / "best.safetensors"
    assert best.read_bytes() == (tmp_path / "run" / f"step-{ranked[0].step:07}.safetensors").read_bytes()
    loaded = load_file(best)  # without options
    assert loaded.net.architecture == CIFAR8
    assert [label.name for label in loaded.labels] == ["circle", "cross", "stripes"]
    assert loaded.preprocessing.mean_image
    assert loaded.mean_image is not None
    last = load_file(tmp_path / "run" / "last.pt")
    assert last.net.architecture == CIFAR8
    assert_same_weights(last.net, run.net)


# --- every family learns -------------------------------------------------------------------------------------------

FAMILIES = {
    "basic": Architecture(depth=18, num_classes=3),
    "plain": Architecture(depth=18, shortcut=None, num_classes=3),
    "bottleneck v1": Architecture(depth=50, variant="v1", num_classes=3),
    "bottleneck v1.5, C": Architecture(depth=50, shortcut="C", num_classes=3),
    "A": Architecture(depth=18, shortcut="A", num_classes=3),
    "cifar": CIFAR8,
    "cifar plain": CIFAR8.model_copy(update={"shortcut": None}),
}


@pytest.mark.parametrize("architecture", FAMILIES.values(), ids=FAMILIES.keys())
def test_one_batch_can_be_memorised(architecture: Architecture, data: Data, trainer: MakeTrainer) -> None:
    recipe = override(SHORT, {"batch_size": 6, "optimizer": "adamw", "lr": 1e-3, "padding": 0, "mirror": "no"})
    run = trainer(recipe, architecture=architecture)
    (batch, *_) = training_batches(
        data.train, run.plan._replace(steps=1), run.start.palette, first_step=0, workers=0, pin=False
    )
    run.net.train()
    for _ in range(90):
        loss, wrong = run.train_step(batch)
        if loss < 0.05:
            break
    assert wrong == 0
    assert loss < 0.05


# --- options -------------------------------------------------------------------------------------------------------


def test_gradients_of_the_parts_of_a_batch_add_up(trainer: MakeTrainer) -> None:
    """With frozen batch norms a batch in two parts has the gradient of the whole one."""
    frozen = {"freeze": "conv4", "epochs": 1, "momentum": 0, "normalisation": "imagenet"}
    whole = trainer(override(SHORT, frozen), folder="whole")
    parts = trainer(override(SHORT, {**frozen, "accumulate": 2}), folder="parts")
    whole.run()
    parts.run()
    torch.testing.assert_close(parts.net.fc.weight, whole.net.fc.weight, rtol=1e-5, atol=1e-6)
    assert parts.state.rows[0].train_loss == pytest.approx(whole.state.rows[0].train_loss, rel=1e-5)


def test_freeze_trains_the_last_layer_only(trainer: MakeTrainer) -> None:
    run = trainer(override(SHORT, {"freeze": "conv4", "epochs": 1}))
    before = copy.deepcopy(run.net.state_dict())
    run.run()
    changed = {name for name, tensor in run.net.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed == {"fc.weight", "fc.bias"}


@pytest.mark.parametrize("ema", [None, 0.9])
def test_frozen_stages_keep_weights_and_statistics(ema: float | None, trainer: MakeTrainer) -> None:
    run = trainer(override(SHORT, {"freeze": "conv3", "epochs": 1, "recompute_bn": 96, "ema": ema}))
    before = copy.deepcopy(run.net.state_dict())
    run.run()
    state = run.state.evaluated_net.state_dict()
    changed = {name.split(".")[0] for name, tensor in state.items() if not torch.equal(tensor, before[name])}
    assert changed == {"layer3", "fc"}
    assert not torch.equal(state["layer3.0.bn1.running_mean"], before["layer3.0.bn1.running_mean"])


def test_a_stage_that_the_network_lacks(trainer: MakeTrainer) -> None:
    with pytest.raises(ValueError, match="resnet8-cifar has no conv5: the last stage is conv4"):
        trainer(override(SHORT, {"freeze": "conv5"}))


def test_balanced_sampling_shows_every_class_equally_often(data: Data, tmp_path: Path) -> None:
    uneven = Data(Subset(data.train, np.flatnonzero((data.train.labels > 0) | (np.arange(96) < 24))), data.val)
    assert np.bincount(uneven.train.labels).tolist() == [8, 32, 32]
    recipe = override(SHORT, {"sampling": "balanced"})
    start = begin(CIFAR8, recipe, uneven.train)
    run = Trainer(start, recipe, uneven, tmp_path, machine=PLAIN_CPU, shown=False)
    first, *_ = epochs = [
        [key for step in range(3 * epoch, 3 * epoch + 3) for key in run.plan.keys(step)] for epoch in (0, 1)
    ]
    for keys in epochs:
        assert np.bincount(uneven.train.labels[[key.image for key in keys]]).tolist() == [24, 24, 24]
    again = [key for key in first if key.time == 1]
    batches = list(run.feed.training(0))[:3]
    pictures = {
        key: view for step in range(3) for key, view in zip(run.plan.keys(step), batches[step].images, strict=True)
    }
    assert not torch.equal(pictures[again[0]], pictures[again[0]._replace(time=0)])  # each time it looks different
    assert cut_and_resumed(uneven, tmp_path / "cut", recipe).net.fc.weight.isfinite().all()


class Stuck(Trainer):
    """Never gets better than in its second epoch."""

    def _evaluate(self) -> Row:
        row = super()._evaluate()
        error = (0.5, 0.2, 0.3, 0.2, 0.4, 0.1)[len(self.state.rows) - 1]
        self.state.rows[-1] = row._replace(val_error=error)
        return self.state.rows[-1]


def test_a_run_stops_early_and_stays_stopped(data: Data, tmp_path: Path) -> None:
    recipe = override(SHORT, {"epochs": 6, "early_stopping": 3})
    rows = Stuck(begin(CIFAR8, recipe, data.train), recipe, data, tmp_path, machine=PLAIN_CPU, shown=False).run()
    assert [row.epoch for row in rows] == [1, 2, 3, 4, 5]
    content = checkpoint.load(tmp_path)
    resumed = Stuck(resume(content), recipe, data, tmp_path, machine=PLAIN_CPU, resumed=content, shown=False)
    assert resumed.run() == rows
    assert resumed.state.step == 20


def test_a_run_that_is_resumed_stops_early_at_the_same_epoch(data: Data, trainer: MakeTrainer, tmp_path: Path) -> None:
    recipe = override(SHORT, {"epochs": 12, "lr": 1e-6, "early_stopping": 1})
    whole = trainer(recipe, folder="whole").run()
    assert len(whole) < 12
    cut = cut_and_resumed(data, tmp_path / "cut", recipe)
    assert without_times(cut.state.rows) == without_times(whole)


def test_the_average_of_the_weights_is_kept(trainer: MakeTrainer, tmp_path: Path) -> None:
    run = trainer(override(SHORT, {"ema": 0.99, "recompute_bn": 0}))
    run.run()
    average = run.state.evaluated_net
    assert average is run.state.ema
    assert not torch.equal(average.fc.weight, run.net.fc.weight)
    newest = load_file(tmp_path / "run" / "last.pt").net  # prefers the average, as timm and torchvision do
    assert_same_weights(newest, average)


def test_batch_norms_are_recomputed_at_the_end(trainer: MakeTrainer) -> None:
    kept = trainer(override(SHORT, {"recompute_bn": 0}), folder="kept")
    anew = trainer(override(SHORT, {"recompute_bn": 96}), folder="anew")
    kept.run()
    anew.run()
    assert torch.equal(kept.net.fc.weight, anew.net.fc.weight)
    assert not torch.equal(kept.net.bn1.running_mean, anew.net.bn1.running_mean)
    torch.testing.assert_close(anew.net.bn1.running_mean, means_of_first_layer(anew, anew.net), rtol=1e-4, atol=1e-4)


def test_batch_norms_of_earlier_weights_are_recomputed_if_these_are_the_best(trainer: MakeTrainer) -> None:
    run = trainer(override(SHORT, {"recompute_bn": 96}), folder="run")
    rows = run.run()
    step, best = rows[1].step, run.folder / checkpoint.BEST
    run.state.best.kept = [(step, 0.0)]
    rows[1] = rows[1]._replace(val_error=0.0)
    shutil.copyfile(run.state.best.path(step), best)
    before = load_file(best).net
    for _ in range(2):  # a run that has ended may be resumed: the report is written again
        evaluation = report_run(run, rows)
        after = load_file(best)
        assert torch.equal(after.net.fc.weight, before.fc.weight)
        means = means_of_first_layer(run, after.net)
        torch.testing.assert_close(after.net.bn1.running_mean, means, rtol=1e-4, atol=1e-4)
    assert not torch.equal(after.net.bn1.running_mean, before.bn1.running_mean)
    assert isinstance(after.accuracy, Accuracy)
    assert after.accuracy.top1 == top_k_accuracy(evaluation, 1)


@torch.no_grad()
def means_of_first_layer(run: Trainer, net: ResNet) -> torch.Tensor:
    """Computed from the images of the epoch after the run."""
    end = run.plan.steps
    plan = run.plan._replace(steps=end + 4)
    images = training_batches(run.data.train, plan, run.start.palette, first_step=end, workers=0, pin=False)
    return torch.stack([net.conv1(run.feed.to_device(batch)[0]).mean((0, 2, 3)) for batch in images]).mean(0)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_mixed_precision_learns_and_keeps_weights_in_fp32(precision: str, trainer: MakeTrainer) -> None:
    steps = {"steps": 8 if precision == "bf16" else 2, "batch_size": 24, "milestones": []}  # fp16 is slow on CPUs
    run = trainer(override(SHORT, steps), machine=Machine(precision=precision, workers=0))  # type: ignore[arg-type]
    before = run.net.fc.weight.clone()
    rows = run.run()
    assert run.state.scaler.is_enabled() == (precision == "fp16")
    assert not torch.equal(run.net.fc.weight, before)
    assert {parameter.dtype for parameter in run.net.parameters()} == {torch.float32}
    if precision == "bf16":
        assert rows[-1].train_loss < rows[0].train_loss


# --- what goes wrong -----------------------------------------------------------------------------------------------


def test_a_loss_that_is_not_finite_ends_the_run_with_a_remedy(trainer: MakeTrainer) -> None:
    with pytest.raises(InputError, match=r"loss became (nan|inf) near step .* try --lr 1e\+29"):
        trainer(override(SHORT, {"lr": 1e30})).run()


def test_a_run_does_not_resume_on_other_data(data: Data, trainer: MakeTrainer, tmp_path: Path) -> None:
    trainer().run()
    content = checkpoint.load(tmp_path / "run")
    for other in (Data(data.val, data.train), Data(data.train, data.train), Data(data.train, data.val, data.val)):
        with pytest.raises(InputError, match="the images or labels have changed since the run began"):
            Trainer(resume(content), SHORT, other, tmp_path / "run", resumed=content)


def test_a_run_does_not_resume_on_images_of_other_content(data: Data, trainer: MakeTrainer, tmp_path: Path) -> None:
    trainer().run()
    content = checkpoint.load(tmp_path / "run")
    train = copy.copy(data.train)
    assert isinstance(train, InMemory)
    train.images = 255 - train.images
    with pytest.raises(InputError, match="the images or labels have changed since the run began"):
        Trainer(resume(content), SHORT, Data(train, data.val), tmp_path / "run", resumed=content)


# --- what the weights record ---------------------------------------------------------------------------------------


def test_the_weights_record_how_they_were_trained(data: Data, trainer: MakeTrainer, tmp_path: Path) -> None:
    trainer(seed=5).run()
    for name in ("best.safetensors", checkpoint.LAST):
        training = load_file(tmp_path / "run" / name).training
        assert training is not None
        assert Recipe.model_validate(training.recipe) == SHORT
        assert (training.seed, training.started_from, training.processes) == (5, None, 1)
        assert (training.device, training.precision) == ("cpu", "fp32")
        assert (training.train.sha256, training.val.sha256) == (data.train.digest(), data.val.digest())
        assert (training.train.images, training.val.images) == (96, 48)
        assert training.versions["torch"] == metadata.version("torch")  # torch.__version__ may add "+cu130"


def test_a_resumed_run_still_knows_the_weights_that_it_began_with(data: Data, tmp_path: Path) -> None:
    loaded = random_weights(CIFAR8)
    loaded = loaded._replace(weights=Weights(source="theirs.pth", sha256="0" * 64, license="MIT"))
    first = Trainer(begin(CIFAR8, SHORT, data.train, loaded=loaded), SHORT, data, tmp_path, machine=PLAIN_CPU)
    first.run()
    again = Trainer(resume(checkpoint.load(tmp_path)), SHORT, data, tmp_path, machine=PLAIN_CPU)
    assert again.training.started_from == first.training.started_from == loaded.weights
