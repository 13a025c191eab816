"""The demo's training, shortened; the whole of it runs in tests/e2e/test_readme.py."""

from __future__ import annotations

import torch

from model_export.demo import train_demo
from model_export.drawings import CLASSES
from model_export.training.recipe import RECIPES, override
from model_export.training.trainer import Machine
from model_export.weights import Loaded
from service.card import Preprocessing

TINY = override(
    RECIPES["demo"],
    {"size": 64, "first_size": 32, "test_size": 64, "test_resize": 73, "batch_size": 12, "milestones": [0.5]},
)


def demo(seed: int) -> Loaded:
    """Two steps, one of either size."""
    return train_demo(
        seed, recipe=TINY, pictures=24, held_out=12, machine=Machine(precision="fp32", workers=0, channels_last=False)
    )


def test_the_same_seed_gives_the_same_weights() -> None:
    torch.manual_seed(1)
    expected = torch.rand(4)
    torch.manual_seed(1)
    first = demo(3)
    assert torch.equal(torch.rand(4), expected)  # the caller's random numbers are left alone
    second = demo(3)
    for name, weights in first.net.state_dict().items():
        assert torch.equal(weights, second.net.state_dict()[name]), name
    assert first.accuracy == second.accuracy
    assert not torch.equal(first.net.fc.weight, demo(4).net.fc.weight)


def test_it_is_ready_to_be_exported() -> None:
    loaded = demo(0)
    assert not loaded.net.training
    assert {weights.dtype for weights in loaded.net.parameters()} == {torch.float32}
    assert [label.name for label in loaded.labels] == list(CLASSES)
    assert loaded.accuracy is not None
    assert loaded.accuracy.images == 12
    assert loaded.accuracy.dataset == "drawings 24 to 35 (seed 0)"  # none that it was trained on
    assert loaded.preprocessing.mean == Preprocessing().mean
