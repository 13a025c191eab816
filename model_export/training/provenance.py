"""What a run's weights say about how they were trained."""

from __future__ import annotations

import torch

from model_export.datasets.base import Data, Dataset
from model_export.software import commit, tool_versions
from model_export.training.recipe import Recipe
from service.runtime.choices import Precision
from service.runtime.model_card import ImageSet, Training, Weights

_PRECISIONS: dict[torch.dtype | None, Precision] = {None: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}


def describe_training(
    recipe: Recipe,
    data: Data,
    *,
    seed: int,
    started_from: Weights | None,
    device: torch.device,
    dtype: torch.dtype | None,
    processes: int,
) -> Training:
    """The record of a run. It holds no times and no paths: identical runs have identical ones.

    Args:
        started_from: None for a He-initialised network.
        dtype: as of `Machine.autocast_dtype`.
    """
    return Training(
        recipe=recipe.model_dump(mode="json"),
        seed=seed,
        train=image_set(data.train),
        val=image_set(data.val),
        started_from=started_from,
        device=device.type,
        precision=_PRECISIONS[dtype],
        processes=processes,
        commit=commit(),
        versions=tool_versions(),
    )


def image_set(dataset: Dataset) -> ImageSet:
    return ImageSet(name=dataset.name, images=len(dataset), sha256=dataset.digest())
