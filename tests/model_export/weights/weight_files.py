"""Helpers to write weight files, load them, and check the result."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from model_export.errors import InputError
from model_export.nets.resnet import ResNet, resnet
from model_export.weights.loading import Loaded, load_file

State = dict[str, Tensor]


def load(path: Path, depth: int = 8, **changes: Any) -> Loaded:
    """Loads a file as ResNet-8 for CIFAR, or with other options."""
    return load_file(path, **{"depth": depth, "family": "cifar", "shortcut": "A", **changes})


def refusal(path: Path, **changes: Any) -> str:
    """The message of the InputError that loading a file raises."""
    with pytest.raises(InputError) as caught:
        load(path, **changes)
    assert str(path) in str(caught.value)
    return str(caught.value)


def imagenet_file(path: Path, net: ResNet, **replaced: Tensor) -> Path:
    """Writes one value per tensor: a file with all the names and shapes of a net, in a few kilobytes."""
    state = {name: torch.zeros(()).expand(tensor.shape) for name, tensor in net.state_dict().items()}
    torch.save({**state, **replaced}, path)
    return path


def meta_resnet(depth: int, **options: Any) -> ResNet:
    with torch.device("meta"):
        return resnet(depth, **options)


def prefixed(state: State, prefix: str) -> State:
    return {prefix + name: tensor for name, tensor in state.items()}


def as_transformers(name: str) -> str:
    """A parameter of a ResNet as Hugging Face's transformers name it."""
    if name.startswith("fc."):
        return name.replace("fc.", "classifier.1.")
    name = re.sub(r"^(conv|bn)1\.", r"resnet.embedder.embedder.\1.", name)
    name = re.sub(r"downsample\.([01])", lambda found: f"shortcut.{('conv', 'bn')[int(found[1])]}", name)
    name = re.sub(r"(conv|bn)([123])\.", lambda found: f"layer.{int(found[2]) - 1}.{found[1]}.", name)
    name = re.sub(
        r"^layer(\d)\.(\d+)", lambda found: f"resnet.encoder.stages.{int(found[1]) - 1}.layers.{found[2]}", name
    )
    return name.replace(".conv.", ".convolution.").replace(".bn.", ".normalization.")


def assert_same(loaded: Loaded, state: State) -> None:
    actual = loaded.net.state_dict()
    assert list(actual) == list(state)
    for name, tensor in state.items():
        torch.testing.assert_close(actual[name], tensor, rtol=0, atol=0)
