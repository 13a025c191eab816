"""Data-parallel training: one process, or several that `torchrun` starts, run the same code."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import NamedTuple, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.nn.functional import all_reduce
from torch.distributed.rendezvous import rendezvous
from torch.nn.parallel import DistributedDataParallel

from model_export.errors import InputError

T = TypeVar("T")

POLL_S = 0.2


class Processes(NamedTuple):
    """This process's place among the processes of a run."""

    rank: int
    world: int  # number of processes
    device: torch.device  # of this process
    store: Store | None = None  # shared by the processes, if there are several

    @property
    def first(self) -> bool:
        """Whether this process writes the files and the log."""
        return self.rank == 0

    def total(self, *values: float) -> list[float]:
        """The sum of each value over all processes. All have to call this."""
        if self.world == 1:
            return list(values)
        sums = torch.tensor(values, dtype=torch.float64, device=self.device)
        dist.all_reduce(sums)
        return sums.tolist()

    def gathered(self, value: T) -> list[T]:
        """The value of every process, in their order. All have to call this."""
        values: list[T | None] = [value] * self.world
        if self.world > 1:
            dist.all_gather_object(values, value)
        return cast("list[T]", values)

    def share_buffers(self, net: nn.Module) -> None:
        """Copies the first process's batch-norm statistics, which checkpoints hold, to all processes."""
        if self.world > 1:
            for buffer in net.buffers():
                dist.broadcast(buffer, 0)

    def from_first(self, make: Callable[[], T]) -> T:
        """The result of `make` in the first process, sent to all of them. `make` may take hours."""
        result: list[T | None] = [make() if self.first else None]
        if self.world > 1:
            self._wait_for_first()
            dist.broadcast_object_list(result, 0, device=self.device)
        return cast("T", result[0])

    def _wait_for_first(self) -> None:
        """Returns once the first process has called this as often as this one has.

        In a collective the others would give up after PyTorch's timeout (NCCL: ten minutes), while the first process
        still reads its images.
        """
        assert self.store is not None
        calls = self.store.add(f"calls of {self.rank}", 1)
        while self.store.add("calls of 0", 0) < calls:
            time.sleep(POLL_S)


@contextmanager
def join_processes(device: str) -> Iterator[Processes]:
    """Joins the processes that `torchrun` describes in the environment; without torchrun there is only this one.

    Args:
        device: "auto", "cpu" or "cuda"; on "cuda", each process takes the GPU of its local rank.

    Raises:
        InputError: PyTorch cannot use the device.
    """
    cuda = torch.cuda.is_available() if device == "auto" else device == "cuda"
    if cuda and not torch.cuda.is_available():
        raise InputError("PyTorch finds no CUDA device here: leave --device out, or pass cpu")
    world = int(os.environ.get("WORLD_SIZE", "1"))
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    place = torch.device("cuda", local_rank) if cuda else torch.device("cpu")
    if cuda:
        torch.cuda.set_device(place)
    if world == 1:
        yield Processes(0, 1, place)
        return
    store, rank, world = next(rendezvous("env://"))
    dist.init_process_group("nccl" if cuda else "gloo", store=store, rank=rank, world_size=world)
    try:
        yield Processes(rank, world, place, PrefixStore("model_export", store))
    finally:
        dist.destroy_process_group()


def data_parallel(net: nn.Module, processes: Processes) -> nn.Module:
    """The network to train; with several processes, in a wrapper that averages gradients over them."""
    if processes.world == 1:
        return net
    device = processes.device
    return DistributedDataParallel(net, device_ids=[device.index] if device.type == "cuda" else None)


def gradients_shared(model: nn.Module, *, last_part: bool) -> AbstractContextManager[None]:
    """A context for forward and backward passes: gradients are averaged once per batch, with its last part."""
    no_sync = getattr(model, "no_sync", None)  # of DistributedDataParallel, also if it is compiled
    return no_sync() if no_sync and not last_part else nullcontext()


class SyncBatchNorm(nn.BatchNorm2d):
    """Batch norm over the batches of all processes: in training, the result of one process with the whole batch.

    PyTorch's own works on GPUs only; this one takes two all-reduces, on any backend.
    """

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)
        values = x.float()
        count = values.new_tensor([x.numel() / x.shape[1]])
        sums, total = all_reduce(torch.cat([values.sum((0, 2, 3)), count])).split([self.num_features, 1])  # type: ignore[no-untyped-call]
        mean = sums / total
        # A second pass: with E[x²] - E[x]², a variance that is small beside the mean would be lost in rounding.
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
    """Replaces every batch norm of a network by a `SyncBatchNorm`, in place."""
    for module in net.modules():
        for name, child in module.named_children():
            if type(child) is nn.BatchNorm2d:
                synchronised = SyncBatchNorm(child.num_features, child.eps, child.momentum)
                synchronised.load_state_dict(child.state_dict())
                setattr(module, name, synchronised)
