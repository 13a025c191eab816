"""The same batches for any number of workers and processes, and from any step on."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from model_export.datasets.base import Data, Dataset
from model_export.errors import InputError
from model_export.training.augment import Palette
from model_export.training.loader import Batch, WorkerDied, evaluation_batches, explain_worker_errors, training_batches
from model_export.training.plan import Plan
from model_export.training.recipe import override
from model_export.training.recipes import RECIPES
from service.runtime.images.decoding import decode
from service.runtime.preprocessing import Preprocessing

RECIPE = override(RECIPES["paper-cifar"], {"batch_size": 10, "pca_colour": 0.1, "erasing": 0.5})
PALETTE = Palette(np.array([100.0, 110.0, 120.0]), 20 * np.eye(3))
PLAN = Plan(images=96, recipe=RECIPE, steps=21, seed=5)
SMALL = Preprocessing(resize=32, crop=32)


class Broken(Dataset):
    """A data set whose second image has become unreadable."""

    def __init__(self, whole: Dataset) -> None:
        self.whole = whole
        self.name, self.classes, self.labels = whole.name, whole.classes, whole.labels

    def read(self, index: int) -> bytes:
        if index == 1:
            raise FileNotFoundError(2, "No such file or directory")
        return self.whole.read(index)

    def title(self, index: int) -> str:
        return f"picture-{index}.jpg"


def batches(data: Data, plan: Plan = PLAN, *, first_step: int = 0, workers: int = 0) -> list[Batch]:
    return list(training_batches(data.train, plan, PALETTE, first_step=first_step, workers=workers, pin=False))


def assert_same(ours: list[Batch], theirs: list[Batch]) -> None:
    assert len(ours) == len(theirs)
    for a, b in zip(ours, theirs, strict=True):
        assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def test_workers_do_not_change_the_batches(data: Data) -> None:
    alone = batches(data)
    assert len(alone) == 21
    assert alone[0].images.shape == (10, 3, 32, 32)
    assert alone[0].images.dtype == torch.uint8
    assert alone[0].colours is not None
    assert alone[0].colours.abs().max() > 0
    assert_same(batches(data, workers=2), alone)


def test_a_resumed_run_continues_with_the_same_batches(data: Data) -> None:
    assert_same(batches(data, first_step=13), batches(data)[13:])


def test_an_image_looks_different_in_every_epoch(data: Data) -> None:
    plan = PLAN._replace(images=10, steps=3)
    looks = [batch.images[batch.labels.argsort(stable=True)] for batch in batches(data, plan)]
    assert not any(torch.equal(a, b) for a, b in pairwise(looks))


def test_evaluation_sees_what_the_service_sees_in_order(data: Data) -> None:
    found = list(evaluation_batches(data.val, SMALL, 20, workers=0, pin=False))
    images, labels = torch.cat([batch.images for batch in found]), torch.cat([batch.labels for batch in found])
    assert labels.tolist() == data.val.labels.tolist()
    for i in (0, 17, 47):
        assert np.array_equal(images[i].numpy(), decode(data.val.read(i), SMALL, max_pixels=10**6).pixels)


def test_processes_share_an_evaluation(data: Data) -> None:
    labels = [
        torch.cat(
            [batch.labels for batch in evaluation_batches(data.val, SMALL, 9, workers=0, pin=False, rank=r, world=2)]
        )
        for r in (0, 1)
    ]
    assert torch.stack(labels, 1).flatten().tolist() == data.val.labels.tolist()


@pytest.mark.parametrize("workers", [0, 1])
def test_a_missing_image_is_named(data: Data, workers: int) -> None:
    broken = Broken(data.train)
    with pytest.raises(
        InputError, match=r"^picture-1\.jpg cannot be used: No such file or directory: .*resume"
    ) as caught:
        list(training_batches(broken, PLAN, PALETTE, first_step=0, workers=workers, pin=False))
    assert "\n" not in str(caught.value)
    assert not multiprocessing.active_children()  # nobody has to wait for workers


class Deadly(Broken):
    """A data set whose second image kills the process that reads it."""

    def read(self, index: int) -> bytes:
        if index == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().read(index)


def test_a_worker_that_dies_is_reported_with_a_remedy(data: Data) -> None:
    with pytest.raises(WorkerDied, match=r"^a process that reads images ended \(.+\): .*--shm-size"):
        list(training_batches(Deadly(data.train), PLAN, PALETTE, first_step=0, workers=1, pin=False))


@pytest.mark.parametrize(
    "error", [EOFError(), ConnectionResetError(104, "Connection reset by peer"), RuntimeError("x")]
)
def test_a_worker_that_dies_while_its_batch_is_fetched_is_reported_too(error: Exception) -> None:
    def batches() -> Iterator[Batch]:
        raise error
        yield

    with pytest.raises(WorkerDied, match=r"^a process that reads images ended \((EOFError|.*reset by peer|x)\)"):
        next(explain_worker_errors(batches()))


KILLED = """
import os, signal
from pathlib import Path
from model_export.datasets.by_name import open_data
from tests.model_export.training.test_loader import PALETTE, PLAN, training_batches

if __name__ == "__main__":
    data = open_data("drawings:train=96,val=12,side=32")
    reading = training_batches(data.train, PLAN, PALETTE, first_step=0, workers=2, pin=False)
    next(reading)
    (server,) = [
        child for child in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
        if b"forkserver" in Path(f"/proc/{child}/cmdline").read_bytes()
    ]
    print(server, Path(f"/proc/{server}/task/{server}/children").read_text(), flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.e2e
@pytest.mark.slow
def test_workers_end_when_the_trainer_is_killed(tmp_path: Path) -> None:
    (tmp_path / "killed.py").write_text(KILLED)
    environment = {**os.environ, "PYTHONPATH": str(Path.cwd())}
    run = subprocess.run([sys.executable, tmp_path / "killed.py"], stdout=subprocess.PIPE, env=environment)
    assert run.returncode == -signal.SIGKILL
    server, *workers = map(int, run.stdout.split())
    assert len(workers) == 2
    left = {server, *workers}
    deadline = time.monotonic() + 60
    while left and time.monotonic() < deadline:
        left = {pid for pid in left if runs(pid)}
        time.sleep(0.05)
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    assert not left


def runs(pid: int) -> bool:
    """Whether a process exists and has not ended: a zombie has."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False
