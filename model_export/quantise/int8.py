"""Converts a graph to static int8 in the QDQ format.

Activations become uint8, weights int8 per channel; sums are int32. ONNX Runtime's quantiser takes the ranges of the
activations (`ranges.py`) and puts QuantizeLinear and DequantizeLinear nodes around the operators to compute in int8.
Normalisation and the pooling before the last layer stay in float. So do the logits: 256 levels would produce ties.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np
import onnx
from onnx import ModelProto, TensorProto, helper, numpy_helper
from onnxruntime.quantization import QuantType
from onnxruntime.quantization.calibrate import TensorData
from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

from model_export.export.onnx_export import ExportError
from model_export.quantise.graphs import check_same_interface, layer_nodes
from model_export.quantise.ranges import OPERATORS, Range


def to_int8(fp32: ModelProto, ranges: Mapping[str, Range], float_layers: Collection[str] = ()) -> ModelProto:
    """The graph in int8, except for some layers.

    A layer in float keeps its weights and computes in float; its neighbours in int8 still round its input and output.

    Args:
        ranges: from `activation_ranges`.
        float_layers: names, as in `layer_nodes`.

    Raises:
        ExportError: the result is not valid, or a layer does not have the requested precision.
    """
    copied = ModelProto()
    copied.CopyFrom(fp32)  # the quantiser modifies its input
    names = layer_nodes(fp32)
    quantiser = QDQQuantizer(
        copied,
        per_channel=True,
        reduce_range=False,
        weight_qType=QuantType.QInt8,
        activation_qType=QuantType.QUInt8,
        tensors_range={
            name: TensorData(lowest=np.float32(low), highest=np.float32(high)) for name, (low, high) in ranges.items()
        },
        nodes_to_quantize=[],
        nodes_to_exclude=[names[layer] for layer in float_layers],
        op_types_to_quantize=OPERATORS,
        extra_options={"OpTypesToExcludeOutputQuantization": ["Gemm"]},
    )
    quantiser.quantize_model()
    quantiser.model.topological_sort()
    model: ModelProto = quantiser.model.model
    _shield(model, [names[layer] for layer in float_layers])
    _check(model, fp32, float_layers)
    return model


def _shield(model: ModelProto, nodes: Collection[str]) -> None:
    """Keeps ONNX Runtime from quantising the layers in float after all.

    If a convolution has int8 activations on both sides, ONNX Runtime (1.31) rounds its weights to int8 as it loads the
    graph, with one scale for all channels. A Relu in front breaks the pattern and changes no value: every quantised
    activation, except the input of the first convolution, already comes from a Relu.
    """
    producers = {output: node.op_type for node in model.graph.node for output in node.output}
    for i, node in reversed(list(enumerate(model.graph.node))):
        if node.name in nodes and producers.get(node.input[0]) == "DequantizeLinear":
            shielded = f"{node.input[0]}_{node.name}"
            model.graph.node.insert(i, helper.make_node("Relu", [node.input[0]], [shielded], f"shield_{node.name}"))
            model.graph.node[i + 1].input[0] = shielded


def _check(model: ModelProto, fp32: ModelProto, float_layers: Collection[str]) -> None:
    """Raises ExportError if the graph is not valid, its interface changed, or a layer has the wrong precision."""
    onnx.checker.check_model(model, full_check=True)
    check_same_interface(model, fp32)
    constants = {constant.name: constant for constant in model.graph.initializer}
    producers = {output: node for node in model.graph.node for output in node.output}
    for layer, name in layer_nodes(fp32).items():
        node = next(node for node in model.graph.node if node.name == name)
        weights = producers.get(node.input[1])
        if layer in float_layers:
            if weights is not None or constants[node.input[1]].data_type != TensorProto.FLOAT:
                raise ExportError(f"{layer} did not stay in float")
            continue
        given = producers.get(node.input[0])
        if weights is None or given is None or {weights.op_type, given.op_type} != {"DequantizeLinear"}:
            raise ExportError(f"{layer} was not quantised")
        stored, scales = (constants[i] for i in weights.input[:2])
        if stored.data_type != TensorProto.INT8 or len(numpy_helper.to_array(scales)) != stored.dims[0]:
            raise ExportError(f"the weights of {layer} are not int8 per channel")
