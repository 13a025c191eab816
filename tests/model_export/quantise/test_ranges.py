"""Ranges of activations."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from model_export.drawings.samples import sample_images
from model_export.quantise.ranges import BINS, activation_names, activation_ranges, least_divergence
from service.runtime.engine import DynamicEngine
from service.runtime.preprocessing import Preprocessing
from service.runtime.providers import open_session

IMAGES = sample_images(5, Preprocessing(resize=32, crop=32))


@pytest.fixture(scope="module")
def fp32(model_folder: Path) -> Path:
    return model_folder / "net" / "1" / "model.onnx"


def test_inputs_of_relus_are_not_rounded(fp32: Path) -> None:
    model = onnx.load(fp32)
    found = activation_names(model)
    relu_inputs = {node.input[0] for node in model.graph.node if node.op_type == "Relu"}
    assert len(relu_inputs) == 7
    assert relu_inputs.isdisjoint(found)
    assert {"feature_map", "embedding", "logits"} <= set(found)
    assert not any(name.startswith("net.") for name in found)


def test_minmax_covers_all_values(fp32: Path) -> None:
    done: list[int] = []
    found = activation_ranges(fp32, IMAGES, "minmax", done.append)
    assert done == [2, 2, 1]
    answers = DynamicEngine.of(open_session(fp32, "cpu", threads=1)).infer(IMAGES, ("logits", "feature_map"))
    assert found["logits"] == pytest.approx((answers["logits"].min(), answers["logits"].max()))
    assert found["feature_map"] == pytest.approx((0, answers["feature_map"].max()))
    relu = next(node for node in onnx.load(fp32).graph.node if node.op_type == "Relu")
    assert found[relu.input[0]] == found[relu.output[0]]  # the first convolution's


def test_the_other_methods_stay_within_minmax(fp32: Path) -> None:
    done: list[int] = []
    widest = activation_ranges(fp32, IMAGES, "minmax", done.append)
    percentile = activation_ranges(fp32, IMAGES, "percentile", done.append)
    entropy = activation_ranges(fp32, IMAGES, "entropy", done.append)
    assert sum(done) == 5 * len(IMAGES)
    for found in (percentile, entropy):
        assert found.keys() == widest.keys()
        for name, (low, high) in found.items():
            assert widest[name].low <= low <= 0 <= high <= widest[name].high
    assert percentile["logits"] == pytest.approx(widest["logits"], rel=1 / BINS)  # too few values to leave any out


def test_an_outlier_is_clipped() -> None:
    values = np.abs(np.random.default_rng(0).normal(size=1_000_000))
    values[0] = 100
    counts = np.histogram(values, BINS, (0, 100))[0]
    kept = least_divergence(counts, levels=128)
    assert 3 < 100 * kept / BINS < 8  # six or so standard deviations
    uniform = np.full(BINS, 1000)
    assert least_divergence(uniform, levels=128) == BINS


def test_all_zeros_have_a_range() -> None:
    assert 0 < least_divergence(np.array([1000] + [0] * (BINS - 1)), levels=256) <= BINS
