"""The seam for whoever follows a run: trackers of experiments, or code of one's own."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from model_export.nets.resnet import ResNet
from model_export.training.recipe import Recipe, describe

log = logging.getLogger(__name__)

Metrics = Mapping[str, float]


class Callback(Protocol):
    """Follows a run, in its first process.

    Whatever is raised at the beginning ends the run. What is raised later is logged as a warning: a tracker that cannot
    be reached should not end a training.
    """

    def on_run_begin(self, folder: Path, settings: Mapping[str, object]) -> None:
        """Before the first step, also of a resumed run.

        Args:
            folder: the run's, the same when it is resumed.
            settings: recipe, network, data and seed, by name.

        Raises:
            InputError: the run cannot be followed.
        """

    def on_epoch_end(self, metrics: Metrics) -> None:
        """After an evaluation; `metrics` are the fields of its `Row`. A resumed run may repeat some evaluations."""

    def on_run_end(self, metrics: Metrics) -> None:
        """After the best weights have been evaluated. Not called if the run is stopped before."""


def settings_by_name(net: ResNet, recipe: Recipe, seed: int, about: Mapping[str, object]) -> dict[str, object]:
    """Everything that decides a run, by name, in words."""
    known = {name: value for name, value in about.items() if value is not None}
    return {"network": net.architecture.name, "seed": seed, **known, **dict(describe(recipe))}


class Callbacks:
    """Several callbacks as one."""

    def __init__(self, callbacks: Sequence[Callback]) -> None:
        self.callbacks = tuple(callbacks)

    def on_run_begin(self, folder: Path, settings: Mapping[str, object]) -> None:
        for callback in self.callbacks:
            callback.on_run_begin(folder, settings)

    def on_epoch_end(self, metrics: Metrics) -> None:
        for callback in self.callbacks:
            _guarded(callback, callback.on_epoch_end, metrics)

    def on_run_end(self, metrics: Metrics) -> None:
        for callback in self.callbacks:
            _guarded(callback, callback.on_run_end, metrics)


def _guarded(callback: Callback, method: Callable[[Metrics], None], metrics: Metrics) -> None:
    try:
        method(metrics)
    except Exception as error:  # a tracker's client may raise anything
        log.warning("%s failed, and the run goes on: %s", type(callback).__name__, error)
