"""The collapse gate passes networks of every kind and stops those that answer the same to everything."""

from __future__ import annotations

import pytest
import torch

from model_export.export.collapse_gate import MIN_SPREAD, Collapsed, check_collapse
from model_export.weights.random_weights import random_weights
from service.runtime.head import Head
from service.runtime.model_card import Architecture
from tests.model_export.export.test_parity_gate import CIFAR, PLAIN
from tests.model_export.export.torch_engine import TorchEngine


@pytest.mark.parametrize(
    "architecture",
    [
        CIFAR,
        PLAIN,
        Architecture(depth=18),
        pytest.param(Architecture(depth=18, shortcut=None), marks=pytest.mark.slow),
        pytest.param(Architecture(depth=50), marks=pytest.mark.slow),
    ],
    ids=lambda architecture: architecture.name,
)
def test_healthy_networks_pass(architecture: Architecture) -> None:
    loaded = random_weights(architecture)
    assert check_collapse(TorchEngine(loaded.serving_graph()), loaded.preprocessing) > 5 * MIN_SPREAD


@pytest.mark.parametrize("layer", ["conv1", "fc"])
def test_a_network_that_answers_the_same_to_everything_is_stopped(layer: str) -> None:
    loaded = random_weights(CIFAR)
    with torch.no_grad():
        loaded.net.get_submodule(layer).weight.zero_()  # type: ignore[operator]
    with pytest.raises(Collapsed, match=r"answers nearly the same to every picture: .* Check that mean and std"):
        check_collapse(TorchEngine(loaded.serving_graph()), loaded.preprocessing)


def test_a_single_logit_passes_by_itself() -> None:
    """Softmax would ignore it."""
    loaded = random_weights(CIFAR.model_copy(update={"num_classes": 1}))
    engine = TorchEngine(loaded.serving_graph())
    assert check_collapse(engine, loaded.preprocessing, Head(kind="sigmoid")) > MIN_SPREAD
    with pytest.raises(Collapsed):
        check_collapse(engine, loaded.preprocessing)
