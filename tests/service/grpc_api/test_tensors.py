"""Requests and answers keep everything on their way through gRPC's messages."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from service.grpc_api.messages import ModelInferRequest
from service.grpc_api.tensors import FIELDS, message_of, request_of
from service.open_inference.datatypes import DATATYPES
from service.open_inference.errors import Code, ProtocolError
from service.open_inference.messages import InferResponse, OutputTensor, RequestedOutput


def one_input(datatype: str = "UINT8", **contents: Any) -> ModelInferRequest:
    message = ModelInferRequest(model_name="m", model_version="3", id="mine")
    tensor = message.inputs.add(name="image", datatype=datatype, shape=[1, -2])
    for name, values in contents.items():
        getattr(tensor.contents, name).extend(values)
    return message


def test_a_raw_request() -> None:
    message = one_input()
    message.raw_input_contents.append(b"\1\2")
    message.parameters["timeout"].int64_param = 5
    message.parameters["none"].SetInParent()
    message.inputs[0].parameters["x"].string_param = "y"
    message.outputs.add(name="logits").parameters["classification"].int64_param = 3
    request = request_of(message)
    assert (request.model_name, request.model_version, request.id) == ("m", "3", "mine")
    assert request.parameters == {"timeout": 5}
    assert request.outputs == [RequestedOutput("logits", {"classification": 3})]
    (tensor,) = request.inputs
    assert (tensor.name, tensor.datatype, tensor.shape) == ("image", "UINT8", (1, -2))
    assert (tensor.raw, tensor.values, tensor.parameters) == (b"\1\2", None, {"x": "y"})


@pytest.mark.parametrize(
    ("datatype", "field", "values"),
    [
        ("BOOL", "bool_contents", [True, False]),
        ("INT8", "int_contents", [-1, 2]),
        ("INT64", "int64_contents", [-(2**40)]),
        ("UINT8", "uint_contents", [0, 255]),
        ("UINT64", "uint64_contents", [2**63]),
        ("FP32", "fp32_contents", [0.5]),
        ("FP64", "fp64_contents", [0.1]),
        ("BYTES", "bytes_contents", [b"a", b""]),
    ],
)
def test_a_request_with_contents(datatype: str, field: str, values: list[object]) -> None:
    (tensor,) = request_of(one_input(datatype, **{field: values})).inputs
    assert tensor.raw is None
    assert tensor.values is not None
    assert list(tensor.values) == values


def test_all_datatypes_have_a_field_but_those_of_16_bits() -> None:
    assert DATATYPES - FIELDS.keys() == {"FP16", "BF16"}


def test_without_data_there_are_no_values() -> None:
    (tensor,) = request_of(one_input()).inputs
    assert (tensor.raw, tensor.values) == (None, ())


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (one_input(fp32_contents=[1.0]), "'image' is 'UINT8' and has fp32_contents: UINT8 belongs into uint_contents"),
        (one_input("FP16", fp32_contents=[1.0]), "'FP16' and has fp32_contents: send it in raw_input_contents"),
        (one_input("X", fp32_contents=[1.0]), "'X' and has fp32_contents: send it in raw_input_contents"),
        (one_input(uint_contents=[1], fp32_contents=[1.0]), "has fp32_contents"),
    ],
)
def test_contents_of_another_datatype_are_refused(message: ModelInferRequest, expected: str) -> None:
    with pytest.raises(ProtocolError, match=expected) as caught:
        request_of(message)
    assert caught.value.code is Code.INVALID_ARGUMENT


def test_contents_and_raw_contents_together_are_refused() -> None:
    message = one_input(uint_contents=[1])
    message.raw_input_contents.append(b"\1")
    with pytest.raises(ProtocolError, match="'image' has contents beside raw_input_contents: send its data once"):
        request_of(message)


@pytest.mark.parametrize("count", [2, 3])
def test_raw_contents_are_one_for_each_input(count: int) -> None:
    message = one_input()
    message.raw_input_contents.extend([b"\1"] * count)
    with pytest.raises(ProtocolError, match=rf"raw_input_contents has {count} elements for 1 inputs"):
        request_of(message)


RESPONSE = InferResponse(
    "m",
    "2",
    "mine",
    [
        OutputTensor.of_floats("logits", np.arange(6, dtype=np.float32).reshape(2, 3)),
        OutputTensor("probabilities", "BYTES", (2, 1), [b"1.0:0:a", b""]),
    ],
    answers=(),
)


def test_a_raw_answer() -> None:
    message = message_of(RESPONSE, raw=True)
    assert (message.model_name, message.model_version, message.id) == ("m", "2", "mine")
    assert [(one.name, one.datatype, list(one.shape)) for one in message.outputs] == [
        ("logits", "FP32", [2, 3]),
        ("probabilities", "BYTES", [2, 1]),
    ]
    assert np.frombuffer(message.raw_output_contents[0], "<f4").tolist() == [0, 1, 2, 3, 4, 5]
    assert message.raw_output_contents[1] == b"\7\0\0\0001.0:0:a\0\0\0\0"
    assert not any(one.HasField("contents") for one in message.outputs)


def test_an_answer_with_contents() -> None:
    message = message_of(RESPONSE, raw=False)
    assert not message.raw_output_contents
    assert list(message.outputs[0].contents.fp32_contents) == [0, 1, 2, 3, 4, 5]
    assert list(message.outputs[1].contents.bytes_contents) == [b"1.0:0:a", b""]
