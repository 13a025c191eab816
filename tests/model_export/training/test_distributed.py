"""Joining a run, and batch norm over two real processes on gloo."""

from __future__ import annotations

import os
from multiprocessing.context import ForkServerContext
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from model_export.errors import InputError
from model_export.training import distributed
from model_export.training.distributed import Processes, SyncBatchNorm, join_processes, synchronise_batch_norms


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
