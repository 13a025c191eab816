"""What a message takes in memory is known before it is parsed."""

from __future__ import annotations

import pytest
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st

from service.grpc_api.messages import ModelInferRequest
from service.grpc_api.wire import PART_BYTES, Malformed, memory_of

PARTS = 1000


def request(**contents: object) -> ModelInferRequest:
    message = ModelInferRequest(model_name="m", id="1")
    tensor = message.inputs.add(name="image", datatype="UINT8", shape=[1, 3, 8, 8])
    tensor.parameters["p"].string_param = "value"
    for name, values in contents.items():
        getattr(tensor.contents, name).extend(values)
    return message


def test_raw_bytes_count_once() -> None:
    message = request()
    message.raw_input_contents.append(bytes(100_000))
    size = message.ByteSize()
    assert 100_000 < memory_of(message.SerializeToString(), ModelInferRequest, PARTS) < size + 30 * PART_BYTES + 200


@pytest.mark.parametrize(
    ("field", "value", "width"),
    [("uint_contents", 1, 4), ("int64_contents", 1, 8), ("fp32_contents", 1.0, 1), ("bool_contents", True, 1)],
)
def test_packed_numbers_count_as_what_they_become(field: str, value: object, width: int) -> None:
    data = request(**{field: [value] * 10_000}).SerializeToString()
    found = memory_of(data, ModelInferRequest, PARTS)
    expected = width * (40_000 if field == "fp32_contents" else 10_000)
    assert expected <= found < expected + 30 * PART_BYTES + 1000


@pytest.mark.parametrize(
    "data",
    [
        b"\x2a\x00" * 10_000,  # inputs
        b"\x3a\x00" * 10_000,  # raw_input_contents
        b"\x22\x00" * 10_000,  # parameters
        b"\xf8\x01\x00" * 10_000,  # an unknown field
        b"\x2a\xa0\x9c\x01" + b"\x22\x00" * 10_000,  # the parameters of one input
    ],
)
def test_a_message_of_many_small_parts_is_refused(data: bytes) -> None:
    with pytest.raises(Malformed, match="more than 1000 parts"):
        memory_of(data, ModelInferRequest, PARTS)


@pytest.mark.parametrize(
    "data", [b"\x0a", b"\x0a\x05ab", b"\x0b", b"\x08", b"\x09abc", b"\xff" * 11, b"\x0a" + b"\xff" * 9]
)
def test_what_ends_too_early_is_no_message(data: bytes) -> None:
    with pytest.raises(Malformed):
        memory_of(data, ModelInferRequest, PARTS)


@given(st.binary(max_size=200))
def test_any_bytes_are_counted_or_refused_as_they_are_parsed(data: bytes) -> None:
    """What protobuf reads is refused for one reason only: groups, which nobody writes any more."""
    try:
        assert memory_of(data, ModelInferRequest, PARTS) >= 0
    except Malformed as malformed:
        if "unknown kind" not in str(malformed):
            with pytest.raises(DecodeError):
                ModelInferRequest.FromString(data)
