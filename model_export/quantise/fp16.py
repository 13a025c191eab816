"""Converts a graph to fp16, for GPUs: weights and activations.

Inputs, normalisation and outputs stay in fp32. ONNX Runtime's own converter rounds between the steps of the
normalisation even when told to exclude them, and only there are the numbers large.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import ModelProto, TensorProto, helper, numpy_helper

from model_export.export.onnx_export import ExportError
from model_export.quantise.graphs import check_same_interface

LARGEST = float(np.finfo(np.float16).max)


def to_fp16(fp32: ModelProto) -> ModelProto:
    """The graph in fp16, from the first convolution on.

    Raises:
        ExportError: a weight is too large for fp16, or the interface changed.
    """
    model = ModelProto()
    model.CopyFrom(fp32)
    graph = model.graph
    first = next(i for i, node in enumerate(graph.node) if node.op_type == "Conv")
    body = graph.node[first:]
    _convert_constants(graph, {name for node in body for name in node.input})

    normalised = body[0].input[0]
    casts = {normalised: f"{normalised}_fp16"} | {output.name: f"{output.name}_fp16" for output in graph.output}
    for node in body:
        for names in (node.input, node.output):
            names[:] = [casts.get(name, name) for name in names]
    graph.node.insert(first, _cast(normalised, casts[normalised], TensorProto.FLOAT16))
    graph.node.extend(_cast(casts[output.name], output.name, TensorProto.FLOAT) for output in graph.output)
    del graph.value_info[:]  # inferred for fp32

    onnx.checker.check_model(model, full_check=True)
    check_same_interface(model, fp32)
    return model


def _convert_constants(graph: onnx.GraphProto, names: set[str]) -> None:
    for constant in graph.initializer:
        if constant.data_type != TensorProto.FLOAT or constant.name not in names:
            continue
        values = numpy_helper.to_array(constant)
        if np.abs(values).max() > LARGEST:
            raise ExportError(
                f"{constant.name} holds values above {LARGEST:.0f}, the largest number in fp16: stay with fp32"
            )
        constant.CopyFrom(numpy_helper.from_array(values.astype(np.float16), constant.name))


def _cast(name: str, to_name: str, to: int) -> onnx.NodeProto:
    return helper.make_node("Cast", [name], [to_name], f"cast_{to_name}", to=to)
