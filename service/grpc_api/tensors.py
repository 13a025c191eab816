"""Between the protocol's messages over gRPC and those of the data plane."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from service.grpc_api.messages import (
    InferParameter,
    ModelInferRequest,
    ModelInferResponse,
)
from service.open_inference.errors import invalid
from service.open_inference.messages import (
    InferRequest,
    InferResponse,
    InputTensor,
    Parameter,
    RequestedOutput,
)

# The field of InferTensorContents for each datatype. FP16 and BF16 have none.
FIELDS = {
    "BOOL": "bool_contents",
    **dict.fromkeys(("INT8", "INT16", "INT32"), "int_contents"),
    "INT64": "int64_contents",
    **dict.fromkeys(("UINT8", "UINT16", "UINT32"), "uint_contents"),
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}


def request_of(message: ModelInferRequest) -> InferRequest:
    """A request as it was sent; the data plane checks it. Raises ProtocolError if its data is not where it belongs."""
    raws = message.raw_input_contents
    if raws and len(raws) != len(message.inputs):
        raise invalid(
            f"raw_input_contents has {len(raws)} elements for {len(message.inputs)} inputs: send one for each input"
        )
    return InferRequest(
        model_name=message.model_name,
        model_version=message.model_version,
        id=message.id,
        parameters=_parameters(message.parameters),
        inputs=[_input(tensor, raws[i] if raws else None) for i, tensor in enumerate(message.inputs)],
        outputs=[RequestedOutput(output.name, _parameters(output.parameters)) for output in message.outputs],
    )


def _input(tensor: ModelInferRequest.InferInputTensor, raw: bytes | None) -> InputTensor:
    values = None
    if raw is None:
        values = _values(tensor)
    elif tensor.HasField("contents"):
        raise invalid(f"input '{tensor.name}' has contents beside raw_input_contents: send its data once")
    return InputTensor(
        name=tensor.name,
        datatype=tensor.datatype,
        shape=tuple(tensor.shape),
        raw=raw,
        values=values,
        parameters=_parameters(tensor.parameters),
    )


def _values(tensor: ModelInferRequest.InferInputTensor) -> Sequence[object]:
    """The contents of a tensor, not copied. Raises ProtocolError if they are in a field of another datatype."""
    field = FIELDS.get(tensor.datatype)
    found: dict[str, Sequence[object]] = {field.name: values for field, values in tensor.contents.ListFields()}
    for name in found.keys() - {field}:
        raise invalid(
            f"input '{tensor.name}' is {tensor.datatype!r} and has {name}: "
            + (f"{tensor.datatype} belongs into {field}" if field else "send it in raw_input_contents")
        )
    return found.get(field or "", ())


def _parameters(parameters: Mapping[str, InferParameter]) -> dict[str, Parameter]:
    found: dict[str, Parameter] = {}
    for name, parameter in parameters.items():
        if choice := parameter.WhichOneof("parameter_choice"):
            found[name] = getattr(parameter, choice)
    return found


def message_of(response: InferResponse, *, raw: bool) -> ModelInferResponse:
    """An answer as it is sent: with raw_output_contents, or with contents."""
    message = ModelInferResponse(model_name=response.model_name, model_version=response.model_version, id=response.id)
    for output in response.outputs:
        tensor = message.outputs.add(name=output.name, datatype=output.datatype, shape=output.shape)
        if raw:
            message.raw_output_contents.append(output.raw())
        else:
            getattr(tensor.contents, FIELDS[output.datatype]).extend(output.values())
    return message
