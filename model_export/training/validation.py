"""Loss and error of a network on the validation set."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model_export.training.distributed import Processes


class Validation(NamedTuple):
    """Means over the validation set; errors are fractions."""

    loss: float
    error: float
    top5_error: float


@torch.no_grad()
def validate(
    net: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor]],
    autocast: AbstractContextManager[Any],
    processes: Processes,
) -> Validation:
    """Evaluates a network, which is left in evaluation mode.

    Args:
        batches: this process's share: normalised images, float32 `(N, 3, H, W)`, and labels, int64 `(N,)`.
        autocast: a context for the network alone; the loss is computed in float32.
    """
    net.eval()
    sums = torch.zeros(4, dtype=torch.float64, device=processes.device)  # loss, top-1 misses, top-5 misses, images
    for x, y in batches:
        with autocast:
            logits = net(x).float()  # (N, classes)
        hits = logits.topk(min(5, logits.shape[1])).indices == y[:, None]  # (N, 5)
        loss = F.cross_entropy(logits, y, reduction="sum")
        sums += torch.stack([loss, (~hits[:, 0]).sum(), (~hits.any(1)).sum(), y.new_tensor(len(y))]).double()
    loss_sum, misses, top5_misses, images = processes.total(*sums.tolist())
    return Validation(loss_sum / images, misses / images, top5_misses / images)
