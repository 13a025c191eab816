"""Conversion to fp16."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper

from model_export.drawings.samples import sample_images
from model_export.export.onnx_export import ExportError
from model_export.quantise.fp16 import to_fp16
from service.runtime.engine import DynamicEngine
from service.runtime.graph import OUTPUTS
from service.runtime.preprocessing import Preprocessing
from service.runtime.providers import open_session


@pytest.fixture
def model(model_folder: Path) -> onnx.ModelProto:
    return onnx.load(model_folder / "net" / "1" / "model.onnx")


def test_it_answers_nearly_as_fp32(model: onnx.ModelProto, tmp_path: Path) -> None:
    images = sample_images(8, Preprocessing(resize=32, crop=32))
    found = []
    for each in (to_fp16(model), model):
        onnx.save(each, tmp_path / "model.onnx")
        found.append(DynamicEngine.of(open_session(tmp_path / "model.onnx", "cpu", threads=1)).infer(images, OUTPUTS))
    for output in OUTPUTS:
        ours, theirs = (each[output] for each in found)
        assert ours.dtype == np.float32
        assert 0 < np.abs(ours - theirs).max() / np.ptp(theirs) < 5e-3


def test_everything_but_normalisation_is_fp16(model: onnx.ModelProto) -> None:
    result = to_fp16(model)
    types = {constant.name: constant.data_type for constant in result.graph.initializer}
    floats = [name for name, kind in types.items() if kind == TensorProto.FLOAT]
    assert sorted(floats) == ["normalise.mean", "normalise.scale"]
    assert [node.op_type for node in result.graph.node][:5] == ["Cast", "Sub", "Mul", "Cast", "Conv"]
    assert model.graph.initializer[0].data_type == TensorProto.FLOAT  # the input is unchanged


def test_weights_beyond_fp16_are_refused(model: onnx.ModelProto) -> None:
    constant = next(constant for constant in model.graph.initializer if constant.name == "net.fc.weight")
    constant.CopyFrom(numpy_helper.from_array(np.full(constant.dims, 1e5, np.float32), constant.name))
    with pytest.raises(ExportError, match=r"net\.fc\.weight holds values above 65504"):
        to_fp16(model)
