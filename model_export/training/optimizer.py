"""The optimiser of a recipe."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from model_export.training.recipe import Recipe

ADAM_BETA2 = 0.98  # runs here are short: 0.999 would remember the first gradients to the end


def make_optimizer(net: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """SGD or AdamW over the parameters that require gradients."""
    trained = [parameter for parameter in net.parameters() if parameter.requires_grad]
    if recipe.decay_norms:
        groups: list[dict[str, Any]] = [{"params": trained}]
    else:
        groups = [
            {"params": [p for p in trained if p.ndim > 1]},
            {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
        ]
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(
            groups, lr=recipe.lr, momentum=recipe.momentum, weight_decay=recipe.weight_decay, fused=True
        )
    return torch.optim.AdamW(
        groups, lr=recipe.lr, betas=(recipe.momentum, ADAM_BETA2), weight_decay=recipe.weight_decay, fused=True
    )


def lay_out_as_parameters(optimizer: torch.optim.Optimizer) -> None:
    """Gives momentum and the like, as loaded from a checkpoint, the memory layout of their parameters.

    The fused optimisers pair both by their places in memory, not by their indices.
    """
    for parameter, state in optimizer.state.items():
        for name, value in state.items():
            if isinstance(value, torch.Tensor) and value.shape == parameter.shape:
                state[name] = torch.empty_like(parameter).copy_(value)
