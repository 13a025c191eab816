"""What bf16 does to a graph, for machines that do not compute in it.

bf16 has no file of its own: a provider computes it from the fp32 file. Here the same rounding is written into the
graph, which any provider then computes: weights, and what goes from layer to layer, are rounded to bfloat16 and back.
Sums stay in fp32, as in the hardware.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import ModelProto, TensorProto, helper, numpy_helper

from model_export.quantise.graphs import check_same_interface


def rounded_to_bf16(fp32: ModelProto) -> ModelProto:
    """The graph that answers as bf16 does, from the first convolution on.

    Raises:
        ExportError: the interface changed.
    """
    model = ModelProto()
    model.CopyFrom(fp32)
    graph = model.graph
    first = next(i for i, node in enumerate(graph.node) if node.op_type == "Conv")
    head, body = list(graph.node[:first]), list(graph.node[first:])
    weights = {node.input[1] for node in body if node.op_type in ("Conv", "Gemm")}
    for constant in graph.initializer:
        if constant.name in weights:
            values = nearest_bf16(numpy_helper.to_array(constant))
            constant.CopyFrom(numpy_helper.from_array(values, constant.name))

    read = {name for node in body for name in node.input}
    normalised = body[0].input[0]
    rounded = {normalised: f"{normalised}_bf16"}
    nodes = [*head, *_rounding(normalised)]
    for node in body:
        node.input[:] = [rounded.get(name, name) for name in node.input]
        nodes.append(node)
        for name in node.output:
            if name in read:
                rounded[name] = f"{name}_bf16"
                nodes += _rounding(name)
    del graph.node[:]
    graph.node.extend(nodes)
    onnx.checker.check_model(model, full_check=True)
    check_same_interface(model, fp32)
    return model


def nearest_bf16(values: np.ndarray) -> np.ndarray:
    """Finite float32 numbers, each rounded to the nearest bfloat16; of two equally near, the even one."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    bits = (bits + 0x7FFF + ((bits >> 16) & 1)) & np.uint32(0xFFFF0000)
    return bits.view(np.float32)


def _rounding(name: str) -> list[onnx.NodeProto]:
    """Nodes that compute `NAME_bf16`, in fp32, from `NAME`."""
    narrow, wide = f"{name}_narrow", f"{name}_bf16"
    return [
        helper.make_node("Cast", [name], [narrow], f"cast_{narrow}", to=TensorProto.BFLOAT16),
        helper.make_node("Cast", [narrow], [wide], f"cast_{wide}", to=TensorProto.FLOAT),
    ]
