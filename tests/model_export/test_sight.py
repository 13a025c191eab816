"""Networks that see, and networks that answer the same to everything."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from model_export.parity import ParityFailed
from model_export.random_weights import random_weights
from model_export.sight import SIGHT, check_sight
from service.card import Architecture
from tests.model_export.test_parity import CIFAR, PLAIN, exported


@pytest.mark.parametrize(
    "architecture",
    [CIFAR, PLAIN, Architecture(depth=18), Architecture(depth=18, shortcut=None), Architecture(depth=50)],
    ids=lambda architecture: architecture.name,
)
def test_honest_networks_see(architecture: Architecture, tmp_path: Path) -> None:
    loaded = random_weights(architecture)
    engine = exported(loaded.serving_graph(), loaded.preprocessing, tmp_path)
    assert check_sight(engine, loaded.preprocessing) > 5 * SIGHT


@pytest.mark.parametrize("layer", ["conv1", "fc"])
def test_a_network_that_answers_the_same_to_everything_is_stopped(layer: str, tmp_path: Path) -> None:
    loaded = random_weights(CIFAR)
    with torch.no_grad():
        loaded.net.get_submodule(layer).weight.zero_()  # type: ignore[operator, union-attr]
    engine = exported(loaded.serving_graph(), loaded.preprocessing, tmp_path)
    with pytest.raises(ParityFailed, match="the network does not see"):
        check_sight(engine, loaded.preprocessing)
