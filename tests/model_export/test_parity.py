"""The gate: it passes what is right and stops what is not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from model_export.parity import BATCH_SIZES, ParityFailed, agreement, check_parity, sample_images
from model_export.random_weights import random_weights
from service.card import Architecture, ModelCard, Preprocessing
from service.engine import DynamicEngine, Engine
from service.providers import open_session

CIFAR = Architecture(depth=8, family="cifar", shortcut="A", num_classes=10)  # what `models_dir` holds


@pytest.fixture
def engine(models_dir: Path) -> Engine:
    return DynamicEngine(open_session(models_dir / "resnet8-cifar" / "1" / "model.onnx", "cpu", threads=1))


def test_the_same_network_passes(engine: Engine) -> None:
    loaded = random_weights(CIFAR)
    parity = check_parity(loaded.serving_graph(), engine, loaded.preprocessing)
    assert parity.batch_sizes == BATCH_SIZES == (1, 2, 3, 8)
    assert 0 < parity.max_abs_difference < 1e-4
    assert (parity.top1_agreement, parity.top5_agreement) == (1, 1)


def test_a_network_with_other_batch_norm_statistics_is_stopped(engine: Engine) -> None:
    """What a wrongly folded batch norm looks like."""
    loaded = random_weights(CIFAR)
    with torch.no_grad():
        loaded.net.bn1.running_var *= 1.01  # type: ignore[operator]
    with pytest.raises(ParityFailed, match=r"logits differs from PyTorch's by .* Nothing was published"):
        check_parity(loaded.serving_graph(), engine, loaded.preprocessing)


def test_answers_that_are_no_numbers_are_stopped(engine: Engine) -> None:
    loaded = random_weights(CIFAR)
    with torch.no_grad():
        loaded.net.fc.bias.fill_(float("nan"))
    with pytest.raises(ParityFailed):
        check_parity(loaded.serving_graph(), engine, loaded.preprocessing)


def test_agreement() -> None:
    ours = np.array([[3.0, 2.0, 1.0, 0.0], [0.0, 1.0, 2.0, 3.0]])
    theirs = np.array([[2.9, 2.0, 1.0, 0.0], [0.0, 1.0, 3.0, 2.0]])
    assert agreement(ours, theirs, 1) == 0.5
    assert agreement(ours, theirs, 2) == 1.0  # the same two, in another order


def test_the_sample_is_always_the_same_and_varied() -> None:
    images = sample_images(6, Preprocessing())
    assert images.shape == (6, 3, 224, 224)
    assert np.array_equal(images, sample_images(6, Preprocessing()))
    assert len({image.tobytes() for image in images}) == 6


def test_random_weights_have_trained_like_statistics(models_dir: Path) -> None:
    net = random_weights(CIFAR, seed=1).net
    norm = net.get_submodule("layer2.0.bn1")
    assert not torch.allclose(norm.running_var, torch.ones_like(norm.running_var), rtol=0.1)  # type: ignore[arg-type]
    again = random_weights(CIFAR, seed=1).net.state_dict()
    assert all(torch.equal(value, again[name]) for name, value in net.state_dict().items())
    assert not torch.equal(net.fc.weight, random_weights(CIFAR, seed=2).net.fc.weight)
    assert "mean nothing" in ModelCard.read(models_dir / "resnet8-cifar" / "1").weights.source
