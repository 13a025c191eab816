"""The demo as it ships, and its training, shortened; the whole of it runs in tests/e2e/test_demo.py."""

from __future__ import annotations

from pathlib import Path

import torch

from model_export.demo import SHIPPED, save_demo, shipped_demo, train_demo
from model_export.drawings import CLASSES, pixels
from model_export.evaluation.predictors import TorchPredictor
from model_export.training.recipe import RECIPES, override
from model_export.training.trainer import Machine
from model_export.weights import Loaded, load_file
from service.card import Preprocessing, sha256

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


def test_the_weights_that_ship_recognise_what_they_were_not_trained_on() -> None:
    loaded = shipped_demo()
    assert [label.name for label in loaded.labels] == list(CLASSES)
    assert loaded.accuracy is not None
    assert loaded.accuracy.top1 >= 0.98
    assert loaded.accuracy.images == 600
    assert "shipped with the project" in loaded.weights.source
    assert loaded.weights.sha256 == sha256(SHIPPED)
    assert SHIPPED.stat().st_size < 25e6  # half precision
    predictor = TorchPredictor(loaded, "demo")
    right = [
        predictor.logits(pixels(4242, index, loaded.preprocessing)[None]).argmax() == index % len(CLASSES)
        for index in range(2 * len(CLASSES))
    ]
    assert sum(right) >= 22


def test_what_is_saved_is_what_was_measured(tmp_path: Path) -> None:
    """Rounding to half precision comes before measuring, and changes nothing after it."""
    loaded = demo(0)
    path = tmp_path / "demo.safetensors"
    save_demo(loaded, path)
    found = load_file(path)
    for name, weights in loaded.net.state_dict().items():
        assert torch.equal(weights, found.net.state_dict()[name]), name
    assert (found.accuracy, found.labels, found.preprocessing) == (
        loaded.accuracy,
        loaded.labels,
        loaded.preprocessing,
    )
    assert path.stat().st_size < 0.52 * 4 * sum(tensor.numel() for tensor in loaded.net.parameters())


def test_it_is_ready_to_be_exported() -> None:
    loaded = demo(0)
    assert not loaded.net.training
    assert {weights.dtype for weights in loaded.net.parameters()} == {torch.float32}
    assert [label.name for label in loaded.labels] == list(CLASSES)
    assert loaded.accuracy is not None
    assert loaded.accuracy.images == 12
    assert loaded.accuracy.dataset == "drawings 24 to 35 (seed 0)"  # none that it was trained on
    assert loaded.preprocessing.mean == Preprocessing().mean
