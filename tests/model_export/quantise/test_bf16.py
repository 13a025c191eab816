"""The rounding of bf16, written into a graph."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

from model_export.drawings.samples import sample_images
from model_export.quantise.bf16 import nearest_bf16, rounded_to_bf16
from service.runtime.engine import DynamicEngine
from service.runtime.graph import OUTPUTS, Output
from service.runtime.preprocessing import Preprocessing
from service.runtime.providers import open_session


@pytest.fixture
def model(model_folder: Path) -> onnx.ModelProto:
    return onnx.load(model_folder / "net" / "1" / "model.onnx")


def answers(model: onnx.ModelProto, folder: Path) -> dict[Output, np.ndarray]:
    onnx.save(model, folder / "model.onnx")
    engine = DynamicEngine.of(open_session(folder / "model.onnx", "cpu", threads=1))
    return engine.infer(sample_images(8, Preprocessing(resize=32, crop=32)), OUTPUTS)


def distance(ours: np.ndarray, theirs: np.ndarray) -> float:
    """The largest difference, relative to the range."""
    return float(np.abs(ours - theirs).max() / np.ptp(theirs))


def test_numbers_are_rounded_as_pytorch_does() -> None:
    ties = [1 + 2**-8, 1 + 3 * 2**-8, -1 - 2**-8, 0.0, -0.0, 1e-40, 3e38]
    values = np.concatenate([np.random.default_rng(0).standard_normal(10_000), ties]).astype(np.float32)
    assert np.array_equal(nearest_bf16(values), torch.from_numpy(values).bfloat16().float().numpy())


def test_it_answers_nearly_as_fp32(model: onnx.ModelProto, tmp_path: Path) -> None:
    ours, theirs = (answers(each, tmp_path) for each in (rounded_to_bf16(model), model))
    for output in OUTPUTS:
        assert ours[output].dtype == np.float32
        assert 1e-4 < distance(ours[output], theirs[output]) < 5e-2


def test_what_goes_from_layer_to_layer_is_rounded_too(model: onnx.ModelProto, tmp_path: Path) -> None:
    """ONNX Runtime must not take the pairs of casts for nothing."""
    only_weights = onnx.ModelProto()
    only_weights.CopyFrom(model)
    for constant in only_weights.graph.initializer:
        if constant.name.endswith(".weight"):
            values = nearest_bf16(numpy_helper.to_array(constant))
            constant.CopyFrom(numpy_helper.from_array(values, constant.name))
    ours, theirs = (answers(each, tmp_path)["logits"] for each in (rounded_to_bf16(model), only_weights))
    assert distance(ours, theirs) > 1e-4


def test_the_given_graph_is_unchanged(model: onnx.ModelProto) -> None:
    before = model.SerializeToString()
    rounded_to_bf16(model)
    assert model.SerializeToString() == before
