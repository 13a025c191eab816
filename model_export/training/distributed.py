"""Several processes training one network, as `torchrun` starts them; and one process alone, which is the same code."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.nn.functional import all_reduce

from model_export.errors import InputError


class Processes(NamedTuple):
    """This process among those of a run."""

    rank: int
    world: int
    device: torch.device

    @property
    def first(self) -> bool:
        """Whether this is the process that writes files and talks."""
        return self.rank == 0

    def total(self, *values: float) -> list[float]:
        """The sums of values over all processes."""
        if self.world == 1:
            return list(values)
        sums = torch.tensor(values, dtype=torch.float64, device=self.device)
        dist.all_reduce(sums)
        return sums.tolist()


@contextmanager
def joined(device: str) -> Iterator[Processes]:
    """This process's place in the run that `torchrun` describes in the environment, or a place of its own.

    Args:
        device: "auto", "cpu" or "cuda"; with "cuda", each process takes the GPU of its local rank.

    Raises:
        InputError: there is no such device.
    """
    cuda = torch.cuda.is_available() if device == "auto" else device == "cuda"
    if cuda and not torch.cuda.is_available():
        raise InputError("there is no CUDA device that this PyTorch can use: leave --device out, or pass cpu")
    world = int(os.environ.get("WORLD_SIZE", "1"))
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    place = torch.device("cuda", local_rank) if cuda else torch.device("cpu")
    if cuda:
        torch.cuda.set_device(place)
    if world == 1:
        yield Processes(0, 1, place)
        return
    dist.init_process_group("nccl" if cuda else "gloo")
    try:
        yield Processes(dist.get_rank(), world, place)
    finally:
        dist.destroy_process_group()


class SyncBatchNorm(nn.BatchNorm2d):
    """Batch norm over the batches of all processes: in training, what one process would compute of the whole batch.

    PyTorch's own works on GPUs only; this one is a pair of sums, on any backend.
    """

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)
        count = x.new_tensor([x.numel() / x.shape[1]], dtype=torch.float32)
        values = x.float()
        sums = torch.cat([values.sum((0, 2, 3)), values.square().sum((0, 2, 3)), count])
        total = all_reduce(sums)  # type: ignore[no-untyped-call]
        mean, square = (total[:-1] / total[-1]).chunk(2)
        variance = square - mean.square()
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        with torch.no_grad():
            self.num_batches_tracked += 1
            share = 1 / self.num_batches_tracked if self.momentum is None else self.momentum
            self.running_mean.lerp_(mean, share)
            self.running_var.lerp_(variance * total[-1] / (total[-1] - 1), share)
        scale = self.weight * torch.rsqrt(variance + self.eps)
        shift = self.bias - mean * scale
        return (values * scale[:, None, None] + shift[:, None, None]).to(x.dtype)


def synchronise_batch_norms(net: nn.Module) -> None:
    """Makes every batch norm of a network a `SyncBatchNorm`, in place."""
    for module in net.modules():
        for name, child in module.named_children():
            if type(child) is nn.BatchNorm2d:
                synchronised = SyncBatchNorm(child.num_features, child.eps, child.momentum)
                synchronised.load_state_dict(child.state_dict())
                setattr(module, name, synchronised)
