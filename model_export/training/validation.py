"""Loss and error of a network on the validation set."""

from __future__ import annotations

import math
from collections.abc import Iterable
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model_export.datasets.base import Dataset
from model_export.errors import InputError
from model_export.evaluation.average_precision import mean_average_precision
from model_export.training.distributed import Processes


def check_measurable(val: Dataset) -> None:
    """Raises InputError if multi-label images to validate on have no class at all: there is no average precision."""
    if val.multi_label and not val.labels.any():
        raise InputError(f"no image of {val.name} has a class, so the best weights cannot be told: add some that have")


class Validation(NamedTuple):
    """Means over the validation set; errors are fractions. Multi-label: the error is 1 - mAP, and there is no top-5."""

    loss: float
    error: float
    top5_error: float  # NaN if there is none


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


@torch.no_grad()
def validate_multi_label(
    net: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor]],
    autocast: AbstractContextManager[Any],
    processes: Processes,
) -> Validation:
    """As `validate`, for labels float32 `(N, classes)`. Average precision needs all images of all processes at once."""
    net.eval()
    scores, targets = [], []
    for x, y in batches:
        with autocast:
            scores.append(net(x).float().cpu())
        targets.append(y.cpu())
    gathered = processes.gathered((scores, targets))  # a process may have no images
    logits, truth = (torch.cat([batch for part in parts for batch in part]) for parts in zip(*gathered, strict=True))
    loss = F.binary_cross_entropy_with_logits(logits, truth)
    precision = mean_average_precision(truth.numpy() > 0, logits.numpy())
    return Validation(float(loss), 1 - precision, math.nan)


VALIDATION = {False: validate, True: validate_multi_label}  # by whether images are multi-label
