"""A small data set and short runs on it."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any

import pytest
import torch

from model_export.datasets.base import Data
from model_export.datasets.by_name import open_data
from model_export.training.loader import Batch
from model_export.training.machine import Machine
from model_export.training.recipe import Recipe, override
from model_export.training.recipes import RECIPES
from model_export.training.start import begin
from model_export.training.trainer import Trainer
from service.runtime.model_card import Architecture

SPEC = "drawings:train=96,val=48,side=32,difficulty=easy,classes=circle+cross+stripes"
CIFAR8 = Architecture(depth=8, family="cifar", shortcut="A", num_classes=3)
SHORT = override(RECIPES["paper-cifar"], {"epochs": 3, "batch_size": 24, "lr": 0.05})
# Everything that has state of its own, in one run.
RICH = override(
    SHORT, {"ema": 0.9, "mixup": 0.2, "cutmix": 1.0, "schedule": "plateau", "patience": 1, "warmup_lr": 0.01}
)
PLAIN_CPU = Machine(precision="fp32", workers=0)

MakeTrainer = Callable[..., Trainer]


@pytest.fixture(scope="session")
def data() -> Data:
    return open_data(SPEC)


@pytest.fixture(scope="session", autouse=True)
def _preloaded_fork_server(forkserver: ForkServerContext) -> None:
    """Starts the fork server before a loader does, because a loader would preload less into it."""


@pytest.fixture
def trainer(data: Data, tmp_path: Path) -> MakeTrainer:
    """`trainer(recipe, folder="a", architecture=..., **arguments of Trainer)`; the folder is created in `tmp_path`."""

    def make(
        recipe: Recipe = SHORT, *, folder: str = "run", architecture: Architecture = CIFAR8, **arguments: Any
    ) -> Trainer:
        (tmp_path / folder).mkdir(exist_ok=True)
        start = begin(architecture, recipe, data.train, seed=arguments.get("seed", 0))
        arguments = {"machine": PLAIN_CPU, "shown": False, **arguments}
        return Trainer(start, recipe, data, tmp_path / folder, **arguments)

    return make


class Interrupting(Trainer):
    """Sends itself a signal in the middle of a step."""

    at_step = 6
    signum = signal.SIGTERM

    def train_step(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        if self.state.step == self.at_step:
            os.kill(os.getpid(), self.signum)
        return super().train_step(batch)


def assert_same_weights(ours: torch.nn.Module, theirs: torch.nn.Module) -> None:
    """Bit for bit."""
    for (name, a), b in zip(ours.state_dict().items(), theirs.state_dict().values(), strict=True):
        assert torch.equal(a, b), name
