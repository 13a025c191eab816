"""Static int8 in the QDQ format: activations in uint8, weights in int8 per channel, sums in int32.

With the ranges of activations (`ranges.py`) ONNX Runtime's quantiser puts QuantizeLinear and DequantizeLinear nodes
around what is to be computed in int8. Normalisation stays in float, and so do the pooling before the last layer and the
logits: 256 levels would make ties of them.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np
import onnx
from onnx import ModelProto, TensorProto, helper, numpy_helper
from onnxruntime.quantization import QuantType
from onnxruntime.quantization.calibrate import TensorData
from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

from model_export.onnx_export import ExportError
from model_export.quantise.graphs import check_same_interface, layers
from model_export.quantise.ranges import OPERATORS, Range


def quantised(fp32: ModelProto, ranges: Mapping[str, Range], float_layers: Collection[str] = ()) -> ModelProto:
    """The graph in int8, but for some layers.

    A layer in float keeps its weights and computes in float; what its neighbours in int8 give it and take from it has
    been rounded to theirs.

    Args:
        ranges: of `activation_ranges`.
        float_layers: of `layers`.

    Raises:
        ExportError: the result is not what was asked for.
    """
    copied = ModelProto()
    copied.CopyFrom(fp32)  # the quantiser changes what it is given
    names = layers(fp32)
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
    """Keeps ONNX Runtime from quantising layers in float all the same.

    Where a convolution has an activation in int8 before it and one behind it, ONNX Runtime (1.31) rounds its weights to
    int8 while it loads the graph, and with one scale for all channels. A Relu before it breaks the pattern, and changes
    nothing: whatever has been quantised here, but for the input of the first convolution, has passed one.
    """
    made_by = {output: node.op_type for node in model.graph.node for output in node.output}
    for i, node in reversed(list(enumerate(model.graph.node))):
        if node.name in nodes and made_by.get(node.input[0]) == "DequantizeLinear":
            shielded = f"{node.input[0]}_{node.name}"
            model.graph.node.insert(i, helper.make_node("Relu", [node.input[0]], [shielded], f"shield_{node.name}"))
            model.graph.node[i + 1].input[0] = shielded


def _check(model: ModelProto, fp32: ModelProto, float_layers: Collection[str]) -> None:
    """Raises ExportError where the graph is not valid, speaks otherwise than before, or a layer is not as asked for."""
    onnx.checker.check_model(model, full_check=True)
    check_same_interface(model, fp32)
    constants = {constant.name: constant for constant in model.graph.initializer}
    made_by = {output: node for node in model.graph.node for output in node.output}
    for layer, name in layers(fp32).items():
        node = next(node for node in model.graph.node if node.name == name)
        weights = made_by.get(node.input[1])
        if layer in float_layers:
            if weights is not None or constants[node.input[1]].data_type != TensorProto.FLOAT:
                raise ExportError(f"{layer} was to stay in float, and did not")
            continue
        given = made_by.get(node.input[0])
        if weights is None or given is None or {weights.op_type, given.op_type} != {"DequantizeLinear"}:
            raise ExportError(f"{layer} was not quantised")
        stored, scales = (constants[i] for i in weights.input[:2])
        if stored.data_type != TensorProto.INT8 or len(numpy_helper.to_array(scales)) != stored.dims[0]:
            raise ExportError(f"the weights of {layer} are not int8 per channel")
