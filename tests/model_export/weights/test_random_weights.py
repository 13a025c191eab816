from __future__ import annotations

from pathlib import Path

import torch

from model_export.weights.random_weights import random_weights
from service.runtime.model_card import Architecture
from service.runtime.model_folder import read_card

CIFAR = Architecture(depth=8, family="cifar", shortcut="A", num_classes=10)  # what `models_dir` holds


def test_statistics_are_like_trained_ones_and_seeded(models_dir: Path) -> None:
    net = random_weights(CIFAR, seed=1).net
    norm = net.get_submodule("layer2.0.bn1")
    assert not torch.allclose(norm.running_var, torch.ones_like(norm.running_var), rtol=0.1)  # type: ignore[arg-type]
    again = random_weights(CIFAR, seed=1).net.state_dict()
    assert all(torch.equal(value, again[name]) for name, value in net.state_dict().items())
    assert not torch.equal(net.fc.weight, random_weights(CIFAR, seed=2).net.fc.weight)
    assert "mean nothing" in read_card(models_dir / "resnet8-cifar" / "1").weights.source
