"""What an fp32 graph and a graph of lower precision must have in common: layers and interface."""

from __future__ import annotations

from onnx import ModelProto

from model_export.export.onnx_export import ExportError


def layer_nodes(model: ModelProto) -> dict[str, str]:
    """The convolutions and the last layer in the order of computation: PyTorch's layer name -> name of the node.

    The layer names are those of the weights without their common prefix and suffix: `conv1`, `layer1.0.conv1`, `fc`.
    """
    return {
        node.input[1].removeprefix("net.").removesuffix(".weight"): node.name
        for node in model.graph.node
        if node.op_type in ("Conv", "Gemm")
    }


def check_same_interface(model: ModelProto, fp32: ModelProto) -> None:
    """Raises ExportError if inputs or outputs differ in name, type or shape; the batch must stay dynamic."""
    for ours, theirs in ((model.graph.input, fp32.graph.input), (model.graph.output, fp32.graph.output)):
        if [value.SerializeToString() for value in ours] != [value.SerializeToString() for value in theirs]:
            raise ExportError(f"the interface changed: {[v.name for v in ours]}, not {[v.name for v in theirs]}")
