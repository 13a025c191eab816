"""Which layers go back to float."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from model_export.drawings.samples import sample_images
from model_export.quantise import sensitivity
from model_export.quantise.graphs import layer_nodes
from model_export.quantise.int8 import to_int8
from model_export.quantise.ranges import activation_ranges
from model_export.quantise.sensitivity import Int8Probe, choose_float_layers, group_by_stage, signal_to_noise
from service.runtime.head import Head
from service.runtime.preprocessing import Preprocessing

IMAGES = sample_images(48, Preprocessing(resize=32, crop=32))
SENSITIVE = "layer2.0.conv2"  # of the net `outlier`


@pytest.fixture(scope="module")
def probe(model_folder: Path) -> Int8Probe:
    fp32 = model_folder / "outlier" / "1" / "model.onnx"
    model = onnx.load(fp32)
    ranges = activation_ranges(fp32, IMAGES[:16], "minmax", lambda images: None)
    return Int8Probe(fp32, IMAGES, lambda float_layers: to_int8(model, ranges, float_layers))


@pytest.fixture(scope="module")
def names(model_folder: Path) -> list[str]:
    return list(layer_nodes(onnx.load(model_folder / "outlier" / "1" / "model.onnx")))


def test_groups_are_the_stages(names: list[str]) -> None:
    found = group_by_stage(names)
    assert list(found) == ["conv1", "layer1", "layer2", "layer3", "fc"]
    assert found["layer2"] == ("layer2.0.conv1", "layer2.0.conv2")


def test_the_layer_that_int8_ruins_is_found(
    probe: Int8Probe, names: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "model_export")
    assert probe.effect(()).sqnr + 20 < probe.effect((SENSITIVE,)).sqnr
    chosen = choose_float_layers(probe, names, 0.99)
    assert SENSITIVE in chosen
    assert len(chosen) <= sensitivity.MAX_FLOAT_LAYERS
    tables = [record.getMessage() for record in caplog.records if "gain in dB" in record.getMessage()]
    assert [table.splitlines()[1].split()[0] for table in tables] == ["layer2", SENSITIVE]  # the highest gains


def test_no_layer_goes_back_to_float_without_need(probe: Int8Probe, names: list[str]) -> None:
    assert choose_float_layers(probe, names, probe.effect(()).top1_agreement) == ()


def test_layers_without_gain_stay_in_int8(probe: Int8Probe, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sensitivity, "MAX_FLOAT_LAYERS", 1)
    monkeypatch.setattr(
        Int8Probe, "effect", lambda probe, float_layers: sensitivity.Effect(10.0 + len(float_layers), 0.5)
    )
    assert choose_float_layers(probe, ["conv1", "layer1.0.conv1", "fc"], 0.99) == ()


def test_signal_to_noise() -> None:
    fp32 = np.random.default_rng(0).normal(size=(4, 12)).astype(np.float32)
    fp32 -= fp32.mean(axis=1, keepdims=True)
    assert signal_to_noise(1.1 * fp32, fp32) == pytest.approx(20, abs=1e-3)  # a tenth of the amplitude
    assert signal_to_noise(fp32 + np.arange(4, dtype=np.float32)[:, None], fp32) > 100  # the softmax is the same


def test_a_common_shift_of_all_logits_matters_to_a_sigmoid() -> None:
    fp32 = np.random.default_rng(0).normal(size=(50, 3)).astype(np.float32)
    assert signal_to_noise(fp32 + 1, fp32, Head(kind="sigmoid")) < 10
    assert signal_to_noise(1.1 * fp32[:, :1], fp32[:, :1], Head(kind="sigmoid")) == pytest.approx(20, abs=1e-3)
