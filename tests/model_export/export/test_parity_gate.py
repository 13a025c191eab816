"""The parity gate passes correct exports and stops faulty ones."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch

from model_export.export.onnx_export import export_onnx
from model_export.export.parity_gate import (
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
)
from model_export.nets.serving_graph import ServingGraph
from model_export.weights.random_weights import random_weights
from service.runtime.engine import DynamicEngine, Engine
from service.runtime.model_card import Architecture
from service.runtime.preprocessing import Preprocessing
from service.runtime.providers import open_session
from tests.model_export.export.torch_engine import TorchEngine

pytestmark = pytest.mark.arithmetic

CIFAR = Architecture(depth=8, family="cifar", shortcut="A", num_classes=10)  # what `models_dir` holds


@pytest.fixture
def engine(models_dir: Path) -> Engine:
    return DynamicEngine.of(open_session(models_dir / "resnet8-cifar" / "1" / "model.onnx", "cpu", threads=1))


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
    with pytest.raises(ParityFailed, match=r"logits in ONNX Runtime is .* in float64; .* Nothing was published"):
        check_parity(Reference(loaded.serving_graph(), loaded.preprocessing), engine)


def test_nan_answers_are_stopped(engine: Engine) -> None:
    loaded = random_weights(CIFAR)
    with torch.no_grad():
        loaded.net.fc.bias.fill_(float("nan"))
    with pytest.raises(ParityFailed):
        check_parity(Reference(loaded.serving_graph(), loaded.preprocessing), engine)


def exported(graph: ServingGraph, preprocessing: Preprocessing, folder: Path) -> Engine:
    export_onnx(graph, preprocessing.shape, folder / "model.onnx", {})
    return DynamicEngine.of(open_session(folder / "model.onnx", "cpu", threads=1))


# Plain nets round worst: their feature map is tiny compared with the activations that it is computed from.
PLAIN = Architecture(depth=32, family="cifar", shortcut=None, num_classes=10)


@pytest.mark.parametrize(
    "architecture",
    [PLAIN, pytest.param(Architecture(depth=18, shortcut=None), marks=pytest.mark.slow)],
    ids=["plain32", "plain18"],
)
def test_networks_with_large_rounding_errors_pass(architecture: Architecture, tmp_path: Path) -> None:
    loaded = random_weights(architecture)
    graph = loaded.serving_graph()
    crop = min(loaded.preprocessing.crop, 96)
    preprocessing = loaded.preprocessing.model_copy(update={"crop": crop, "resize": crop})
    parity = check_parity(Reference(graph, preprocessing), exported(graph, preprocessing, tmp_path))
    assert parity.max_abs_difference > 0


@pytest.mark.parametrize("architecture", [PLAIN, CIFAR], ids=["plain32", "resnet8"])
@pytest.mark.parametrize("fault", ["epsilon", "one channel", "half precision"])
def test_a_fault_is_many_times_what_is_allowed(architecture: Architecture, fault: str) -> None:
    """The smallest faults that an export could have, on the nets with the largest allowance."""
    loaded = random_weights(architecture)
    broken = copy.deepcopy(loaded.net)
    with torch.no_grad():
        if fault == "epsilon":  # another framework's epsilon in batch norms
            for module in broken.modules():
                if isinstance(module, torch.nn.BatchNorm2d):
                    module.eps = 1e-3
        elif fault == "one channel":
            weights = broken.get_submodule("layer1.0.conv1").weight
            weights[0] *= -1  # type: ignore[index, operator]
        else:
            for parameter in broken.parameters():
                parameter.copy_(parameter.half())
    engine = TorchEngine(loaded._replace(net=broken).serving_graph())
    reference = Reference(loaded.serving_graph(), loaded.preprocessing)
    with pytest.raises(ParityFailed):
        check_parity(reference, engine)
    exact, rounded = reference.exact[0], reference.rounded[0]
    allowed = max(FLOOR * float(np.ptp(exact)), MULTIPLE * largest_difference(rounded, exact))
    assert largest_difference(engine.infer(reference.images)["logits"], exact) > 10 * allowed


def test_the_self_test_holds_the_exact_answers_and_the_rounding_of_float32() -> None:
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
    actual = np.array([[3.0, 2.0, 1.0, 0.0], [0.0, 1.0, 2.0, 3.0]])
    expected = np.array([[2.9, 2.0, 1.0, 0.0], [0.0, 1.0, 3.0, 2.0]])
    assert agreement(actual, expected, 1) == 0.5
    assert agreement(actual, expected, 2) == 1.0  # the same two classes, in another order
