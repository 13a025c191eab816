"""What the tests of several parts of model_export share."""

from __future__ import annotations

import multiprocessing
import multiprocessing.forkserver
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import NamedTuple

import pytest

from model_export.studies.study import Panels, Scale, cifar, train_all
from model_export.training.history import Row

# A study that takes seconds.
TINY = Scale(
    data="drawings:train=48,val=24,side=32,difficulty=easy,classes=circle+cross",
    recipe=("--epochs", "1", "--batch-size", "24", "--workers", "0", "--precision", "fp32"),
    degradation=(8, 14),
    shortcuts=8,
    depth=(8, 14),
)


class Trained(NamedTuple):
    """Networks of a study that are trained to the end."""

    panels: Panels
    seed: int
    folder: Path  # to be read
    results: dict[str, dict[str, list[Row]]]


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """The two networks of depth 8 of the study of degradation, at the scale `TINY`, in real processes."""
    panels = {"": {"ResNet-8": cifar(8), "plain-8": cifar(8, None)}}
    folder = tmp_path_factory.mktemp("trained")
    return Trained(panels, 4, folder, train_all(panels, TINY, folder, seed=4))


@pytest.fixture(scope="session")
def forkserver() -> ForkServerContext:
    """Processes that begin with everything loaded that `python -m model_export train` needs, which takes seconds."""
    context = multiprocessing.get_context("forkserver")
    # The first optimiser in a process imports `torch._dynamo`.
    context.set_forkserver_preload(["model_export.__main__", "torch._dynamo", "pytest"])
    multiprocessing.forkserver.ensure_running()
    return context


@pytest.fixture(autouse=True)
def _small_nets(one_thread: None) -> None:
    """Nearly all networks here are small."""
