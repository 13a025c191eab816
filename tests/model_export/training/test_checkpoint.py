"""Checkpoints survive whatever happens to the process that writes them."""

from __future__ import annotations

import errno
import time
from multiprocessing.context import ForkServerContext
from pathlib import Path

import numpy as np
import pytest
import torch

from model_export.datasets.base import Data
from model_export.errors import InputError
from model_export.training import checkpoint
from model_export.training.checkpoint import BestWeights
from model_export.training.history import METRICS_FILE, read_history
from model_export.training.machine import Machine
from model_export.training.recipe import override
from model_export.training.start import begin, resume
from model_export.training.trainer import Trainer
from model_export.weights.loading import load_file
from model_export.weights.record import Record
from service.runtime import disk

from .conftest import CIFAR8, SHORT, MakeTrainer

ENDLESS = override(SHORT, {"epochs": 10_000})
EVERY_STEP = Machine(precision="fp32", workers=0, checkpoint_minutes=0)


def train_until_killed(data: Data, folder: Path) -> None:
    """Starts the run of a folder or resumes it, with a checkpoint after every step."""
    torch.set_num_threads(1)
    begun = (folder / checkpoint.LAST).exists()
    content = checkpoint.load(folder) if begun else None
    start = resume(content) if content else begin(CIFAR8, ENDLESS, data.train)
    Trainer(start, ENDLESS, data, folder, machine=EVERY_STEP, resumed=content, shown=False).run()


@pytest.mark.e2e
@pytest.mark.slow
def test_the_last_checkpoint_always_loads(data: Data, forkserver: ForkServerContext, tmp_path: Path) -> None:
    """The run is killed with SIGKILL at twenty random moments, and resumed each time."""
    rng = np.random.default_rng(0)
    last = tmp_path / checkpoint.LAST
    step = 0
    for _ in range(20):
        before = last.stat().st_mtime_ns if last.exists() else 0
        process = forkserver.Process(target=train_until_killed, args=(data, tmp_path))
        process.start()
        deadline = time.monotonic() + 60
        while not (last.exists() and last.stat().st_mtime_ns > before):  # until it writes
            assert process.is_alive()
            assert time.monotonic() < deadline
            time.sleep(0.005)
        time.sleep(rng.uniform(0, 0.1))
        process.kill()
        process.join()
        content = checkpoint.load(tmp_path)
        assert content["step"] > step  # it resumed from the previous one
        step = content["step"]
        for path in tmp_path.glob("*.safetensors"):
            assert load_file(path).net.architecture == CIFAR8
        if (tmp_path / METRICS_FILE).exists():
            read_history(tmp_path / METRICS_FILE)


def test_a_full_disk_leaves_the_previous_checkpoint(
    trainer: MakeTrainer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = trainer()
    run.run()
    before = (tmp_path / "run" / checkpoint.LAST).read_bytes()

    def full(path: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(disk, "flush", full)
    with pytest.raises(InputError, match=r"^cannot write step 12 to .*run \(No space left on device\).*--resume"):
        run._save()
    assert (tmp_path / "run" / checkpoint.LAST).read_bytes() == before
    assert not list((tmp_path / "run").glob(".*"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "holds no last.pt to resume from"),
        (b"PK\x03\x04 cut short", r"last\.pt is damaged or not a checkpoint"),
        ({"state_dict": {}}, "not a checkpoint of this version's `train`"),
    ],
)
def test_a_checkpoint_that_cannot_be_resumed_is_refused(content: object, message: str, tmp_path: Path) -> None:
    if isinstance(content, bytes):
        (tmp_path / checkpoint.LAST).write_bytes(content)
    elif content is not None:
        torch.save(content, tmp_path / checkpoint.LAST)
    with pytest.raises(InputError, match=message):
        checkpoint.load(tmp_path)


def test_the_best_weights_are_kept_and_among_equals_the_later(tmp_path: Path) -> None:
    best = BestWeights(tmp_path, 2)
    for step, error in ((1, 0.5), (2, 0.3), (3, 0.4), (4, 0.9), (5, 0.3)):
        best.offer(step, error, {"w": torch.tensor([float(step)])}, Record(), None)
    assert best.kept == [(5, 0.3), (2, 0.3)]
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "best.safetensors",
        "step-0000002.safetensors",
        "step-0000005.safetensors",
    ]
    assert (tmp_path / "best.safetensors").read_bytes() == best.path(5).read_bytes()
