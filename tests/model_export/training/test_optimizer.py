"""Parameter groups of the optimisers."""

from __future__ import annotations

import torch

from model_export.training.optimizer import make_optimizer
from model_export.training.recipes import RECIPES


def test_norms_are_decayed_or_not() -> None:
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 1, bias=False), torch.nn.BatchNorm2d(4))
    all_alike = make_optimizer(net, RECIPES["paper-imagenet"]).param_groups
    assert [(len(group["params"]), group["weight_decay"]) for group in all_alike] == [(3, 1e-4)]
    apart = make_optimizer(net, RECIPES["modern"]).param_groups
    assert [(len(group["params"]), group["weight_decay"]) for group in apart] == [(1, 2e-5), (2, 0.0)]
