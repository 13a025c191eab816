"""Conversion to int8, on real graphs."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import ModelProto, TensorProto, numpy_helper

from model_export.drawings.samples import sample_images
from model_export.export.onnx_export import ExportError
from model_export.quantise import int8
from model_export.quantise.graphs import layer_nodes
from model_export.quantise.int8 import to_int8
from model_export.quantise.ranges import Range, activation_ranges
from service.runtime.class_activation import Classifier
from service.runtime.engine import DynamicEngine
from service.runtime.graph import OUTPUTS
from service.runtime.model_card import CalibrationMethod
from service.runtime.model_folder import read_card
from service.runtime.preprocessing import Preprocessing
from service.runtime.providers import open_session

IMAGES = sample_images(16, Preprocessing(resize=32, crop=32))


@pytest.fixture(scope="module")
def fp32(model_folder: Path) -> Path:
    return model_folder / "net" / "1" / "model.onnx"


def ranges(fp32: Path, method: CalibrationMethod = "minmax") -> dict[str, Range]:
    return activation_ranges(fp32, IMAGES, method, lambda images: None)


def answers(model: ModelProto, folder: Path) -> list[np.ndarray]:
    onnx.save(model, folder / "model.onnx")
    found = DynamicEngine.of(open_session(folder / "model.onnx", "cpu", "int8", threads=1)).infer(IMAGES, OUTPUTS)
    return [found[output] for output in OUTPUTS]


@pytest.mark.parametrize("method", get_args(CalibrationMethod))
def test_every_method_answers_nearly_as_fp32(fp32: Path, tmp_path: Path, method: CalibrationMethod) -> None:
    model = onnx.load(fp32)
    found = answers(to_int8(model, ranges(fp32, method)), tmp_path)
    for ours, theirs in zip(found, answers(model, tmp_path), strict=True):
        assert ours.shape == theirs.shape
        assert ours.dtype == np.float32
        noise, signal = np.square(ours - theirs).mean(), np.square(theirs - theirs.mean()).mean()
        assert 10 * np.log10(signal / noise) > 10, method


def test_maps_explain_int8_within_a_hundredth_of_the_logits_range(fp32: Path, tmp_path: Path) -> None:
    logits, _, feature_maps = answers(to_int8(onnx.load(fp32), ranges(fp32)), tmp_path)
    classifier = Classifier.read(fp32.parent, read_card(fp32.parent))
    maps = np.stack([classifier.maps(feature_map, range(logits.shape[1])) for feature_map in feature_maps])
    sums = maps.mean(axis=(2, 3)) + classifier.biases
    np.testing.assert_allclose(sums, logits, rtol=0, atol=0.01 * np.ptp(logits))


def test_what_is_in_int8(fp32: Path) -> None:
    model = onnx.load(fp32)
    result = to_int8(model, ranges(fp32))
    constants = {constant.name: constant for constant in result.graph.initializer}
    for layer in layer_nodes(model):
        stored = constants[f"net.{layer}.weight_quantized"]
        assert stored.data_type == TensorProto.INT8
        assert np.abs(numpy_helper.to_array(stored).astype(int)).max() == 127
        assert f"net.{layer}.weight" not in constants
    first = {node.op_type: node for node in reversed(result.graph.node)}
    assert first["Sub"].input[0] == first["Cast"].output[0]  # normalisation, untouched
    assert first["Mul"].input[0] == first["Sub"].output[0]
    assert [node.output[0] for node in result.graph.node if node.op_type == "Gemm"] == ["logits"]  # not rounded
    activations = [node.input[2] for node in result.graph.node if node.op_type == "QuantizeLinear"]
    assert {constants[name].data_type for name in activations} == {TensorProto.UINT8}
    assert "Relu" not in first  # folded into the lower ends of the ranges
    assert model == onnx.load(fp32)  # the input is unchanged


def test_layers_in_float_are_in_float(fp32: Path) -> None:
    model = onnx.load(fp32)
    found = ranges(fp32)
    result = to_int8(model, found, ["layer2.0.conv1", "fc"])
    constants = {constant.name: constant for constant in result.graph.initializer}
    for layer in layer_nodes(model):
        kept = layer in ("layer2.0.conv1", "fc")
        assert (f"net.{layer}.weight" in constants) == kept
        assert (f"net.{layer}.weight_quantized" in constants) == (not kept)
    before = {constant.name: constant for constant in model.graph.initializer}
    assert np.array_equal(
        numpy_helper.to_array(constants["net.fc.weight"]), numpy_helper.to_array(before["net.fc.weight"])
    )


@pytest.mark.parametrize("layer", ["layer2.0.conv1", "layer2.0.conv2"])  # before a Relu, and before an addition
def test_onnxruntime_leaves_layers_in_float_alone(fp32: Path, tmp_path: Path, layer: str) -> None:
    """By itself, it quantises the weights of a layer between activations in int8."""
    result = to_int8(onnx.load(fp32), ranges(fp32), [layer])
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    ort.InferenceSession(result.SerializeToString(), options)
    optimised = onnx.load(tmp_path / "optimised.onnx")
    node = next(node for node in optimised.graph.node if node.name == layer_nodes(onnx.load(fp32))[layer])
    constants = {constant.name: constant for constant in optimised.graph.initializer}
    assert constants[node.input[1]].data_type == TensorProto.FLOAT


def test_a_layer_that_was_not_quantised_is_found(fp32: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(int8, "OPERATORS", ("Conv", "Add", "Relu"))
    with pytest.raises(ExportError, match="fc was not quantised"):
        to_int8(onnx.load(fp32), ranges(fp32))
