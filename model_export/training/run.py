"""Starts a training run from its inputs, or resumes one from its checkpoint."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TypedDict

from model_export.datasets.base import Data
from model_export.datasets.by_name import absolute, open_data
from model_export.datasets.checking import OnBroken
from model_export.datasets.holding_out import Fold
from model_export.datasets.layout import Layout
from model_export.training import checkpoint
from model_export.training.callbacks import Callback
from model_export.training.distributed import Processes
from model_export.training.machine import Machine
from model_export.training.recipe import Recipe, describe
from model_export.training.start import begin, resume
from model_export.training.trainer import Trainer
from model_export.weights.loading import Loaded
from service.runtime.model_card import Architecture

log = logging.getLogger(__name__)


class Inputs(TypedDict):
    """Where a run's images and first weights come from; stored in its checkpoint."""

    data: str
    """as for `open_data`; a folder or archive by its absolute path, so that the run can be resumed from any folder"""
    val_share: float
    folds: int | None
    fold: int | None
    """of `folds`, from 1: the one that is validated on"""
    broken: OnBroken
    split: str
    ignore: tuple[str, ...]
    weights: str
    """in words, for the report"""


def describe_inputs(
    spec: str,
    *,
    val_share: float,
    fold: Fold | None = None,
    broken: OnBroken,
    layout: Layout,
    loaded: Loaded | None = None,
) -> Inputs:
    """The inputs of a new run.

    Args:
        spec, val_share, fold, broken, layout: as for `open_data`.
        loaded: the weights that the run starts from; None for a He-initialised network.
    """
    return {
        "data": absolute(spec),
        "val_share": val_share,
        "folds": fold and fold.of,
        "fold": fold and fold.number,
        "broken": broken,
        "split": layout.split,
        "ignore": layout.ignore,
        "weights": loaded.weights.source if loaded else "He initialisation",
    }


def new_run(
    architecture: Architecture,
    recipe: Recipe,
    inputs: Inputs,
    folder: Path,
    *,
    loaded: Loaded | None,
    seed: int,
    machine: Machine,
    processes: Processes,
    callbacks: Sequence[Callback] = (),
) -> Trainer:
    """A run at its first step.

    Args:
        architecture: the network; `num_classes` is taken from the data.
        folder: the run's folder; created once the data has been read.
        callbacks: follow the run.

    Raises:
        InputError: the data, the weights and the recipe do not go together.
        OSError: the folder cannot be created.
    """
    data = processes.from_first(lambda: _open(inputs, seed))
    net = architecture.model_copy(update={"num_classes": len(data.train.classes)})
    start = processes.from_first(lambda: begin(net, recipe, data.train, loaded=loaded, seed=seed))
    folder.mkdir(parents=True, exist_ok=True)
    trainer = Trainer(
        start,
        recipe,
        data,
        folder,
        seed=seed,
        machine=machine,
        processes=processes,
        about=dict(inputs),
        callbacks=callbacks,
    )
    _log_summary(trainer)
    return trainer


def resumed_run(
    folder: Path,
    content: checkpoint.Content,
    *,
    machine: Machine,
    processes: Processes,
    callbacks: Sequence[Callback] = (),
) -> Trainer:
    """A stopped run at the step after its checkpoint. Recipe, data and seed are the checkpoint's.

    Args:
        content: the run's checkpoint, as loaded from its folder.
        callbacks: follow the run.

    Raises:
        InputError: the data cannot be used, or has changed since.
    """
    inputs: Inputs = content["about"]
    seed: int = content["seed"]
    data = processes.from_first(lambda: _open(inputs, seed))
    trainer = Trainer(
        resume(content),
        Recipe.model_validate(content["recipe"]),
        data,
        folder,
        seed=seed,
        machine=machine,
        processes=processes,
        about=dict(inputs),
        callbacks=callbacks,
        resumed=content,
    )
    _log_summary(trainer)
    log.info("resuming after step %d of %d", trainer.state.step, trainer.plan.steps)
    return trainer


def _open(inputs: Inputs, seed: int) -> Data:
    return open_data(
        inputs["data"],
        val_share=inputs["val_share"],
        seed=seed,
        fold=Fold(inputs["fold"], inputs["folds"]) if inputs["fold"] and inputs["folds"] else None,
        broken=inputs["broken"],
        layout=Layout(inputs["split"], inputs["ignore"]),
    )


def _log_summary(trainer: Trainer) -> None:
    """Logs everything that a run is about to do."""
    log.info("recipe:\n%s", "\n".join(f"  {name} {value}" for name, value in describe(trainer.recipe)))
    net, data = trainer.net, trainer.data
    log.info(
        "%s (%s, shortcut %s, %d classes, %.2f million parameters) on %s: %d images to train on, %d to validate on%s; "
        "%d steps of %d images on %s in %s, %d loader workers; run folder %s",
        net.architecture.name,
        net.architecture.variant,
        net.architecture.shortcut or "none",
        net.architecture.num_classes,
        sum(p.numel() for p in net.parameters()) / 1e6,
        data.train.name,
        len(data.train),
        len(data.val),
        "" if data.test is None else f", {len(data.test)} to test on at the end",
        trainer.plan.steps,
        trainer.plan.batch_size,
        f"{trainer.processes.world} processes" if trainer.processes.world > 1 else str(trainer.device),
        str(trainer.dtype or "torch.float32").removeprefix("torch."),
        trainer.machine.loader_workers,
        trainer.folder,
    )
