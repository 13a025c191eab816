"""Joining a run, and batch norm over two real processes on gloo."""

from __future__ import annotations

import itertools
import os
import threading
import time
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch._C._distributed_c10d import HashStore
from torch.nn.parallel import DistributedDataParallel

from model_export.errors import InputError
from model_export.training import distributed
from model_export.training.distributed import (
    Processes,
    SyncBatchNorm,
    gradients_shared,
    join_processes,
    synchronise_batch_norms,
)
from tests.support.waiting import until


def share_of_two(rank: int, folder: str) -> None:
    """One of two processes: puts its half of a batch through a synchronised norm and saves the results."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    x, norm = example()
    net = nn.Sequential(norm)
    synchronise_batch_norms(net)
    half = x[rank::2].clone().requires_grad_()
    y = net(half)
    (y.square().sum() / 2).backward()
    processes = Processes(rank, 2, torch.device("cpu"))
    assert processes.gathered(("rank", rank)) == [("rank", 0), ("rank", 1)]
    torch.save((y.detach(), half.grad, net.state_dict()), f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def example() -> tuple[Tensor, nn.BatchNorm2d]:
    generator = torch.Generator().manual_seed(0)
    norm = nn.BatchNorm2d(3)
    norm.weight.data = torch.tensor([1.0, 2.0, 3.0])
    norm.bias.data = torch.tensor([0.5, 0.0, -0.5])
    return torch.randn(6, 3, 4, 4, generator=generator) * 3 + 1, norm


def test_two_processes_normalise_like_one(forkserver: ForkServerContext, tmp_path: Path) -> None:
    processes = [forkserver.Process(target=share_of_two, args=(rank, str(tmp_path))) for rank in (0, 1)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
        assert process.exitcode == 0

    x, norm = example()
    x.requires_grad_()
    y = norm(x)
    (y.square().sum() / 2).backward()
    for rank in (0, 1):
        output, gradient, state = torch.load(tmp_path / f"{rank}.pt")
        torch.testing.assert_close(output, y[rank::2].detach())
        torch.testing.assert_close(gradient, x.grad[rank::2], rtol=1e-4, atol=1e-5)  # type: ignore[index]
        torch.testing.assert_close(state["0.running_mean"], norm.running_mean)
        torch.testing.assert_close(state["0.running_var"], norm.running_var)


def test_the_others_are_in_no_collective_while_the_first_one_works(monkeypatch: pytest.MonkeyPatch) -> None:
    """A collective has a timeout, and reading a large data set in the first process may take longer."""
    store, arrived = HashStore(), list[int]()

    def broadcast(result: list[object], _source: int, device: torch.device) -> None:
        arrived.append(0 if result[0] else 1)

    monkeypatch.setattr(dist, "broadcast_object_list", broadcast)
    monkeypatch.setattr(distributed, "POLL_S", 0.001)
    first, second = (Processes(rank, 2, torch.device("cpu"), store) for rank in (0, 1))

    def make() -> str:
        until(lambda: store.add("calls of 1", 0) == len(arrived) // 2 + 1)
        time.sleep(0.05)  # long enough for a process that does not wait
        made.append(len(arrived))
        return "images"

    made = list[int]()
    for _ in range(2):
        other = threading.Thread(target=second.from_first, args=(pytest.fail,), daemon=True)
        other.start()
        assert first.from_first(make) == "images"
        other.join(60)
    assert made == [0, 2]
    assert sorted(arrived) == [0, 0, 1, 1]


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")  # PyTorch's own, when it loads its compiler
def test_gradients_are_averaged_with_the_last_part_of_a_batch(tmp_path: Path) -> None:
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/rendezvous", rank=0, world_size=1)
    try:
        wrapped = DistributedDataParallel(nn.Linear(1, 1))
        compiled: Any = torch.compile(wrapped)  # without a forward pass, nothing is compiled
        for model, last in itertools.product((wrapped, compiled), (False, True)):
            with gradients_shared(model, last_part=last):
                assert wrapped.require_backward_grad_sync == last
        del model, compiled, wrapped  # before the group, as in `Trainer.run`
    finally:
        dist.destroy_process_group()
    with gradients_shared(nn.Linear(1, 1), last_part=False):  # a process alone has nothing to share
        pass


def test_a_variance_that_is_small_beside_the_mean_is_not_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distributed, "all_reduce", lambda sums: sums)  # one process
    x = torch.randn(16, 4, 16, 16, generator=torch.Generator().manual_seed(0)) * 0.05 + 100
    torch.testing.assert_close(SyncBatchNorm(4)(x), nn.BatchNorm2d(4)(x), rtol=0.01, atol=0.01)


def test_in_evaluation_it_is_a_plain_batch_norm() -> None:
    x, norm = example()
    net = nn.Sequential(norm)
    synchronise_batch_norms(net)
    assert type(net[0]) is SyncBatchNorm
    assert torch.equal(net.eval()(x), norm.eval()(x))


def test_without_torchrun_there_is_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WORLD_SIZE", "RANK", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    with join_processes("cpu") as processes:
        assert (processes.rank, processes.world, processes.first) == (0, 1, True)
        assert processes.total(1.5, 2) == [1.5, 2]
    assert not dist.is_initialized()


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_a_missing_gpu_is_reported() -> None:
    with pytest.raises(InputError, match="no CUDA device"), join_processes("cuda"):
        pass
    with join_processes("auto") as processes:
        assert processes.device.type == "cpu"
    assert "WORLD_SIZE" not in os.environ
