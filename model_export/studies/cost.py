"""Parameters and multiply-adds of a network, counted layer by layer."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from model_export.nets.resnet import build
from model_export.weights.defaults import usual_preprocessing
from service.runtime.model_card import Architecture


class NetworkCost(NamedTuple):
    """What a network costs; multiply-adds are for one image of its usual size."""

    parameters: int
    macs: int


def count_cost(architecture: Architecture) -> NetworkCost:
    """Counts on PyTorch's meta device, where tensors have shapes but no values: the largest net takes no memory.

    Multiply-adds are those of convolutions and linear layers, as in the paper's table 1; normalisation, ReLU, pooling
    and additions do not count. The image is 224x224 (32x32 for the CIFAR family).

    Raises:
        ValueError: the family has no such depth.
    """
    macs = 0

    def add(layer: nn.Module, _: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal macs
        assert isinstance(layer.weight, Tensor)
        macs += output.numel() * layer.weight[0].numel()  # each output is a sum over one filter's weights

    with torch.device("meta"), torch.no_grad():
        net = build(architecture).eval()
        parameters = sum(parameter.numel() for parameter in net.parameters())
        for module in list(net.modules()):
            for name, layer in module.named_children():
                if isinstance(layer, nn.Conv2d | nn.Linear):
                    layer.register_forward_hook(add)
                elif isinstance(layer, nn.BatchNorm2d | nn.ReLU):  # not counted, and slow on the meta device
                    module.add_module(name, nn.Identity())
        net(torch.empty(1, *usual_preprocessing(architecture.family).shape))
    return NetworkCost(parameters, macs)
