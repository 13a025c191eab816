"""Ranges of activations."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from model_export.parity import sample_images
from model_export.quantise.ranges import BINS, activation_ranges, activations, least_divergence
from service.card import Preprocessing
from service.engine import DynamicEngine
from service.providers import open_session

IMAGES = sample_images(5, Preprocessing(resize=32, crop=32))


@pytest.fixture(scope="module")
def fp32(published_once: Path) -> Path:
    return published_once / "net" / "1" / "model.onnx"


def test_of_what_a_relu_cuts_only_the_rest_is_rounded(fp32: Path) -> None:
    model = onnx.load(fp32)
    found = activations(model)
    cut = {node.input[0] for node in model.graph.node if node.op_type == "Relu"}
    assert len(cut) == 7
    assert cut.isdisjoint(found)
    assert {"feature_map", "embedding", "logits"} <= set(found)
    assert not any(name.startswith("net.") for name in found)


def test_minmax_is_all_that_occurred(fp32: Path) -> None:
    done: list[int] = []
    found = activation_ranges(fp32, IMAGES, "minmax", done.append)
    assert done == [2, 2, 1]
    answers = DynamicEngine(open_session(fp32, "cpu", threads=1)).infer(IMAGES, ("logits", "feature_map"))
    assert found["logits"] == pytest.approx((answers["logits"].min(), answers["logits"].max()))
    assert found["feature_map"] == pytest.approx((0, answers["feature_map"].max()))
    relu = next(node for node in onnx.load(fp32).graph.node if node.op_type == "Relu")
    assert found[relu.input[0]] == found[relu.output[0]]  # the first convolution's


def test_the_other_methods_stay_within_it(fp32: Path) -> None:
    done: list[int] = []
    widest = activation_ranges(fp32, IMAGES, "minmax", done.append)
    percentile = activation_ranges(fp32, IMAGES, "percentile", done.append)
    entropy = activation_ranges(fp32, IMAGES, "entropy", done.append)
    assert sum(done) == 5 * len(IMAGES)
    for found in (percentile, entropy):
        assert found.keys() == widest.keys()
        for name, (low, high) in found.items():
            assert widest[name].low <= low <= 0 <= high <= widest[name].high
    assert percentile["logits"] == pytest.approx(widest["logits"], rel=1 / BINS)  # too few to leave any out


def test_an_outlier_is_not_worth_its_steps() -> None:
    values = np.abs(np.random.default_rng(0).normal(size=1_000_000))
    values[0] = 100
    counts = np.histogram(values, BINS, (0, 100))[0]
    kept = least_divergence(counts, levels=128)
    assert 3 < 100 * kept / BINS < 8  # six or so standard deviations
    uniform = np.full(BINS, 1000)
    assert least_divergence(uniform, levels=128) == BINS


def test_nothing_but_zeros_has_a_range_too() -> None:
    assert 0 < least_divergence(np.array([1000] + [0] * (BINS - 1)), levels=256) <= BINS
