"""Several processes training one network, as `torchrun` starts them; and one process alone, which is the same code."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.nn.functional import all_reduce

from model_export.errors import InputError

T = TypeVar("T")


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

    def share_buffers(self, net: nn.Module) -> None:
        """Gives all processes the first one's batch-norm statistics, which are the ones that are stored."""
        if self.world > 1:
            for buffer in net.buffers():
                dist.broadcast(buffer, 0)

    def from_first(self, make: Callable[[], T]) -> T:
        """What the first process makes, in all of them."""
        made: list[T | None] = [make() if self.first else None]
        if self.world > 1:
            dist.broadcast_object_list(made, 0, device=self.device)
        return cast("T", made[0])


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

    PyTorch's own works on GPUs only; this one is two sums, on any backend.
    """

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)
        values = x.float()
        count = values.new_tensor([x.numel() / x.shape[1]])
        sums, total = all_reduce(torch.cat([values.sum((0, 2, 3)), count])).split([self.num_features, 1])  # type: ignore[no-untyped-call]
        mean = sums / total
        # In a second pass: the difference of two large sums would lose what varies little beside its mean.
        deviations = (values - mean[:, None, None]).square().sum((0, 2, 3))
        variance = all_reduce(deviations) / total  # type: ignore[no-untyped-call]
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        with torch.no_grad():
            self.num_batches_tracked += 1
            share = 1 / self.num_batches_tracked if self.momentum is None else self.momentum
            self.running_mean.lerp_(mean, share)
            self.running_var.lerp_(variance * total / (total - 1), share)
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
