"""The weights of the demo, and a shortened training; tests/e2e/test_demo.py runs the whole one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from model_export.demo import SHIPPED, save_demo, shipped_demo, train_demo
from model_export.drawings.pictures import CLASSES, pixels
from model_export.evaluation.predictors import TorchPredictor
from model_export.training.machine import Machine
from model_export.training.recipe import override
from model_export.training.recipes import RECIPES
from model_export.weights.loading import Loaded, load_file
from service.runtime.model_folder import sha256
from service.runtime.preprocessing import Preprocessing

TINY = override(
    RECIPES["demo"],
    {"size": 64, "first_size": 32, "test_size": 64, "test_resize": 73, "batch_size": 12, "milestones": [0.5]},
)


def train(seed: int) -> Loaded:
    """Two steps, one at each image size."""
    return train_demo(
        seed, recipe=TINY, pictures=24, held_out=12, machine=Machine(precision="fp32", workers=0, channels_last=False)
    )


@pytest.fixture(scope="module")
def demo() -> Loaded:
    """Trained with seed 0."""
    return train(0)


@pytest.mark.slow
def test_the_same_seed_gives_the_same_weights(demo: Loaded) -> None:
    torch.manual_seed(1)
    expected = torch.rand(4)
    torch.manual_seed(1)
    again = train(0)
    assert torch.equal(torch.rand(4), expected)  # the caller's random numbers are not touched
    for name, weights in demo.net.state_dict().items():
        assert torch.equal(weights, again.net.state_dict()[name]), name
    assert demo.accuracy == again.accuracy
    assert not torch.equal(demo.net.fc.weight, train(4).net.fc.weight)


def test_the_shipped_weights_recognise_unseen_drawings() -> None:
    loaded = shipped_demo()
    assert [label.name for label in loaded.labels] == list(CLASSES)
    assert loaded.accuracy is not None
    assert loaded.accuracy.top1 >= 0.98
    assert loaded.accuracy.images == 600
    assert "shipped with the project" in loaded.weights.source
    assert loaded.weights.license == "Apache-2.0"
    assert loaded.weights.sha256 == sha256(SHIPPED)
    assert SHIPPED.stat().st_size < 25e6  # half precision
    predictor = TorchPredictor(loaded, "demo")
    right = [
        predictor.logits(pixels(4242, index, loaded.preprocessing)[None]).argmax() == index % len(CLASSES)
        for index in range(2 * len(CLASSES))
    ]
    assert sum(right) >= 22


def test_the_saved_weights_are_the_measured_ones(demo: Loaded, tmp_path: Path) -> None:
    """Weights are rounded to half precision before they are measured, so saving loses nothing."""
    path = tmp_path / "demo.safetensors"
    save_demo(demo, path)
    saved = load_file(path)
    for name, weights in demo.net.state_dict().items():
        assert torch.equal(weights, saved.net.state_dict()[name]), name
    assert (saved.accuracy, saved.labels, saved.preprocessing) == (
        demo.accuracy,
        demo.labels,
        demo.preprocessing,
    )
    assert path.stat().st_size < 0.52 * 4 * sum(tensor.numel() for tensor in demo.net.parameters())


def test_the_demo_is_ready_to_export(demo: Loaded) -> None:
    assert not demo.net.training
    assert {weights.dtype for weights in demo.net.parameters()} == {torch.float32}
    assert [label.name for label in demo.labels] == list(CLASSES)
    assert demo.accuracy is not None
    assert demo.accuracy.images == 12
    assert demo.accuracy.dataset == "drawings 24 to 35 (seed 0)"  # after those it was trained on
    assert demo.preprocessing.mean == Preprocessing().mean
