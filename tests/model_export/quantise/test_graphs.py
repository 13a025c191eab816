"""Layers and interfaces of graphs."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest

from model_export.export.onnx_export import ExportError
from model_export.quantise.graphs import check_same_interface, layer_nodes


@pytest.fixture(scope="module")
def model(model_folder: Path) -> onnx.ModelProto:
    return onnx.load(model_folder / "net" / "1" / "model.onnx")


def test_layers_have_pytorchs_names_in_order(model: onnx.ModelProto) -> None:
    found = layer_nodes(model)
    assert list(found) == [
        "conv1",
        *(f"layer{stage}.0.conv{i}" for stage in (1, 2, 3) for i in (1, 2)),
        "fc",
    ]
    nodes = {node.name: node.op_type for node in model.graph.node}
    assert [nodes[name] for name in found.values()] == ["Conv"] * 7 + ["Gemm"]


def test_a_fixed_batch_is_another_interface(model: onnx.ModelProto) -> None:
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    check_same_interface(changed, model)
    changed.graph.output[0].type.tensor_type.shape.dim[0].dim_value = 8
    with pytest.raises(ExportError, match="the interface changed"):
        check_same_interface(changed, model)
