"""The gate: it passes what is right and stops what is not."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch

from model_export.onnx_export import ServingGraph, export_onnx
from model_export.parity import (
    BATCH_SIZES,
    FLOOR,
    MULTIPLE,
    ParityFailed,
    Reference,
    agreement,
    check_parity,
    exact_answers,
    largest_difference,
    make_self_test,
    sample_images,
)
from model_export.random_weights import random_weights
from service.card import Architecture, ModelCard, Preprocessing
from service.engine import DynamicEngine, Engine
from service.providers import open_session

pytestmark = pytest.mark.arithmetic

CIFAR = Architecture(depth=8, family="cifar", shortcut="A", num_classes=10)  # what `models_dir` holds


@pytest.fixture
def engine(models_dir: Path) -> Engine:
    return DynamicEngine(open_session(models_dir / "resnet8-cifar" / "1" / "model.onnx", "cpu", threads=1))


def test_the_same_network_passes(engine: Engine) -> None:
    loaded = random_weights(CIFAR)
    parity = check_parity(Reference(loaded.serving_graph(), loaded.preprocessing), engine)
    assert parity.batch_sizes == BATCH_SIZES == (1, 2, 3, 8)
    assert 0 < parity.max_abs_difference < 1e-4
    assert (parity.top1_agreement, parity.top5_agreement) == (1, 1)


def test_a_network_with_other_batch_norm_statistics_is_stopped(engine: Engine) -> None:
    """What a wrongly folded batch norm looks like."""
    loaded = random_weights(CIFAR)
    with torch.no_grad():
        loaded.net.bn1.running_var *= 1.01  # type: ignore[operator]
    with pytest.raises(ParityFailed, match=r"logits is .* away from what .* in float64, .* Nothing was published"):
        check_parity(Reference(loaded.serving_graph(), loaded.preprocessing), engine)


def test_answers_that_are_no_numbers_are_stopped(engine: Engine) -> None:
    loaded = random_weights(CIFAR)
    with torch.no_grad():
        loaded.net.fc.bias.fill_(float("nan"))
    with pytest.raises(ParityFailed):
        check_parity(Reference(loaded.serving_graph(), loaded.preprocessing), engine)


def exported(graph: ServingGraph, preprocessing: Preprocessing, folder: Path) -> Engine:
    export_onnx(graph, preprocessing.crop, folder / "model.onnx")
    return DynamicEngine(open_session(folder / "model.onnx", "cpu", threads=1))


# Plain nets without shortcuts round worst: their feature map shrinks to nothing beside what it was made of.
PLAIN = Architecture(depth=32, family="cifar", shortcut=None, num_classes=10)


@pytest.mark.parametrize("architecture", [PLAIN, Architecture(depth=18, shortcut=None)], ids=["plain32", "plain18"])
def test_networks_that_round_badly_are_judged_by_their_own_rounding(architecture: Architecture, tmp_path: Path) -> None:
    loaded = random_weights(architecture)
    graph = loaded.serving_graph()
    parity = check_parity(Reference(graph, loaded.preprocessing), exported(graph, loaded.preprocessing, tmp_path))
    assert parity.max_abs_difference > 0


@pytest.mark.parametrize("architecture", [PLAIN, CIFAR], ids=["plain32", "resnet8"])
@pytest.mark.parametrize("fault", ["epsilon", "one channel", "half precision"])
def test_a_fault_is_many_times_what_is_allowed(architecture: Architecture, fault: str, tmp_path: Path) -> None:
    """The smallest faults that an export could make, on the nets that are allowed most."""
    loaded = random_weights(architecture)
    broken = copy.deepcopy(loaded.net)
    with torch.no_grad():
        if fault == "epsilon":  # of batch norms, that of another framework
            for module in broken.modules():
                if isinstance(module, torch.nn.BatchNorm2d):
                    module.eps = 1e-3
        elif fault == "one channel":
            weights = broken.get_submodule("layer1.0.conv1").weight
            weights[0] *= -1  # type: ignore[index, operator]
        else:
            for parameter in broken.parameters():
                parameter.copy_(parameter.half())
    engine = exported(loaded._replace(net=broken).serving_graph(), loaded.preprocessing, tmp_path)
    graph = loaded.serving_graph()
    reference = Reference(graph, loaded.preprocessing)
    with pytest.raises(ParityFailed):
        check_parity(reference, engine)
    exact, theirs = reference.exact[0], reference.theirs[0]
    allowed = max(FLOOR * float(np.ptp(exact)), MULTIPLE * largest_difference(theirs, exact))
    assert largest_difference(engine.infer(reference.images)["logits"], exact) > 10 * allowed


def test_the_self_test_holds_the_exact_answers_and_how_far_float32_is_from_them() -> None:
    loaded = random_weights(CIFAR)
    graph = loaded.serving_graph()
    stored = make_self_test(Reference(graph, loaded.preprocessing))
    exact, *_ = exact_answers(graph, stored.images)
    assert exact.dtype == np.float64
    assert stored.logits.dtype == np.float32
    np.testing.assert_array_equal(stored.logits, exact.astype(np.float32))
    assert stored.rounding is not None
    assert 1e-9 < stored.rounding < 1e-6


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
