"""What the tests of several parts of model_export share."""

from __future__ import annotations

import multiprocessing
import multiprocessing.forkserver
from collections.abc import Iterator
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import NamedTuple

import pytest

from model_export.studies.runs import train_all
from model_export.studies.study import Panels, Scale, cifar_net
from model_export.training.history import Row
from tests.support.exports import reuse_export
from tests.support.folders import shared_folder

# A study that takes seconds.
TINY = Scale(
    data="drawings:train=48,val=24,side=32,difficulty=easy,classes=circle+cross",
    recipe=("--epochs", "1", "--batch-size", "24", "--workers", "0", "--precision", "fp32"),
    degradation=(8, 14),
    shortcuts=8,
    depth=(8, 14),
)


class Trained(NamedTuple):
    """Networks of a study, trained to the end."""

    panels: Panels
    seed: int
    folder: Path  # read-only
    results: dict[str, dict[str, list[Row]]]


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trained]:
    """A network of the study of degradation, at the scale `TINY`, in a real process."""
    panels, seed = {"": {"plain-8": cifar_net(8, None)}}, 4

    def train(folder: Path) -> dict[str, dict[str, list[Row]]]:
        return train_all(panels, TINY, folder, seed=seed)

    with shared_folder(tmp_path_factory, "trained", train) as folder:
        yield Trained(panels, seed, folder, train(folder))  # which finds finished runs


@pytest.fixture
def quick_export(models_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Publishes `resnet8-cifar` of `models_dir` again without exporting it again."""
    reuse_export(monkeypatch, models_dir)


@pytest.fixture(scope="session")
def forkserver() -> ForkServerContext:
    """Processes that begin with everything loaded that `python -m model_export train` needs, which takes seconds."""
    context = multiprocessing.get_context("forkserver")
    # The first optimiser in a process imports `torch._dynamo`.
    context.set_forkserver_preload(["model_export.__main__", "model_export.cli.train", "torch._dynamo", "pytest"])
    multiprocessing.forkserver.ensure_running()
    return context


@pytest.fixture(autouse=True)
def _small_nets(one_thread: None) -> None:
    """Nearly all networks here are small."""
