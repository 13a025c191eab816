"""Bodies of inference requests: JSON, binary tensors, and what is neither."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.admission import Memory, Permit
from service.api.open_inference.bodies import MOST_BYTES, MOST_KEYS, MOST_VALUES, parse
from service.errors import RequestNeedsTooMuchMemory
from service.metrics import Metrics
from service.open_inference.datatypes import join_bytes
from service.open_inference.errors import ProtocolError
from service.open_inference.messages import InferRequest, InputTensor, RequestedOutput
from tests.support.mutations import tried

SHAPE = (3, 2, 2)
METRICS = Metrics()


def parsed(body: bytes, header: str | None = None, memory: int = 2**30) -> InferRequest:
    with Permit(Memory(memory, METRICS)) as permit:
        return parse(body, header, "resnet", "2", SHAPE, permit)


def request(*inputs: Any, **more: Any) -> bytes:
    return json.dumps({"inputs": inputs, **more}).encode()


def tensor(name: str = "image", datatype: str = "UINT8", shape: Any = (1, 2), **more: Any) -> dict[str, Any]:
    return {"name": name, "datatype": datatype, "shape": shape, **more}


def binary(*sizes: object, datatype: str = "BYTES", rest: bytes = b"") -> InferRequest:
    """Inputs a, b, ... with these `binary_data_size`, and the bytes behind the JSON."""
    inputs = [
        tensor(name, datatype, (1,), parameters={} if size is None else {"binary_data_size": size})
        for name, size in zip("abc", sizes, strict=False)
    ]
    text = request(*inputs)
    return parsed(text + rest, str(len(text)))


def test_a_whole_request() -> None:
    body = request(
        tensor(data=[1, 2], parameters={"x": 0.5}),
        id="7",
        parameters={"timeout": 3, "binary_data_output": True},
        outputs=[{"name": "logits", "parameters": {"classification": 2}}, {"name": "embedding"}],
    )
    assert parsed(body) == InferRequest(
        "resnet",
        [InputTensor("image", "UINT8", (1, 2), values=[1, 2], parameters={"x": 0.5})],
        "2",
        "7",
        {"timeout": 3, "binary_data_output": True},
        [RequestedOutput("logits", {"classification": 2}), RequestedOutput("embedding")],
    )


def test_absent_and_null_members_are_the_same() -> None:
    body = request(tensor(data=[1, 2], parameters=None), id=None, parameters=None, outputs=None, unknown=1)
    assert parsed(body) == parsed(request(tensor(data=[1, 2])))


@pytest.mark.parametrize("data", [[1, 2, 3, 4], [[1, 2], [3, 4]], [[[1], [2]], [[3], [4]]]])
def test_nested_and_flat_data_are_the_same(data: list[Any]) -> None:
    assert parsed(request(tensor(shape=(2, 2, 1), data=data))).inputs[0].values == [1, 2, 3, 4]


@pytest.mark.parametrize("data", [[[1, 2]], [[1, 2], [3]], [[1, 2], 3], [[1, 2, 3], [4]]])
def test_nested_data_of_another_shape(data: list[Any]) -> None:
    with pytest.raises(ProtocolError, match="shape"):
        parsed(request(tensor(shape=(2, 2), data=data)))


def test_files_in_json_are_base64() -> None:
    files = [b"one", b"\xff\xd8\xff"]
    data = [base64.b64encode(file).decode() for file in files]
    assert parsed(request(tensor(datatype="BYTES", shape=[2], data=data))).inputs[0].values == files
    for wrong in ("ÿØÿ", "%%%%", "QQ", "data:image/jpeg;base64,QQ==", 3, None, ["QQ=="]):
        with pytest.raises(ProtocolError, match="element 1 is not base64"):
            parsed(request(tensor(datatype="BYTES", shape=[2], data=["QQ==", wrong])))


def test_bytes_behind_the_json_belong_to_the_inputs_in_order() -> None:
    found = binary(3, 0, 2, rest=b"abcde")
    assert [bytes(one.raw or b"") for one in found.inputs] == [b"abc", b"", b"de"]


def test_binary_and_json_inputs_mix() -> None:
    text = request(tensor("a", data=[1]), tensor("b", parameters={"binary_data_size": 2}))
    first, second = parsed(text + b"xy", str(len(text))).inputs
    assert (first.values, first.raw, second.values, bytes(second.raw or b"")) == ([1], None, None, b"xy")


@pytest.mark.parametrize("size", [-1, 6, 2**70, True, 1.0, "1,x", "-1", "", "9" * 30])
def test_sizes_that_do_not_fit(size: object) -> None:
    with pytest.raises(ProtocolError, match="binary_data_size of input 'a' is"):
        binary(size, None, rest=b"abcde")


def test_bytes_that_nobody_announced() -> None:
    with pytest.raises(ProtocolError, match="has 2 bytes behind the JSON"):
        binary(3, rest=b"abcde")
    with pytest.raises(ProtocolError, match="has 5 bytes behind the JSON"):
        binary(None, None, rest=b"abcde")
    with pytest.raises(ProtocolError, match="both data and binary_data_size"):
        parsed(request(tensor(data=[1, 2], parameters={"binary_data_size": 0})))


def test_a_single_input_needs_no_size() -> None:
    """As for OpenVINO Model Server; a single file also without its length."""
    (pixels,) = binary(None, datatype="UINT8", rest=b"ab").inputs
    (prefixed,) = binary(None, rest=join_bytes([b"file"])).inputs
    (file,) = binary(None, rest=b"file").inputs
    assert (bytes(pixels.raw or b""), bytes(prefixed.raw or b"")) == (b"ab", join_bytes([b"file"]))
    assert (file.raw, file.values) == (None, [b"file"])


def test_sizes_of_files_one_after_the_other() -> None:
    (found,) = binary("2,0,3", rest=b"abcde").inputs
    assert found.values == [b"ab", b"", b"cde"]


def test_a_raw_request_is_the_pixels_of_one_image() -> None:
    found = parsed(b"0123456789ab", "0")
    assert found.inputs == [InputTensor("image", "UINT8", (1, 3, 2, 2), raw=b"0123456789ab")]
    assert found.parameters == {"binary_data_output": True}


@pytest.mark.parametrize("header", ["-1", "13", "1e1", "", "٣", "9" * 5000, "0x0"])
def test_lengths_of_json_that_cannot_be(header: str) -> None:
    with pytest.raises(ProtocolError, match="Inference-Header-Content-Length"):
        parsed(b"0123456789ab", header)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b'{"id": "\xff"}', "not JSON"),
        (b"[" * 10_000, "not JSON: recursion limit"),
        (b"[]", "request: Input should be a valid dictionary"),
        (b"null", "request: Input should"),
        (b"{}", "request.inputs: Field required"),
        (request(1), "request.inputs.0: Input should"),
        (request(tensor(shape=[1.5])), "request.inputs.0.shape.0: Input should be a valid integer"),
        (request(tensor(shape=["1"])), "request.inputs.0.shape.0"),
        (request(tensor(shape=[True])), "request.inputs.0.shape.0"),
        (request(tensor(shape=3)), "request.inputs.0.shape"),
        (request(tensor(name=3)), "request.inputs.0.name"),
        (request(tensor(data=3)), "data of input 'image' is no list"),
        (request(tensor(parameters={"a": []})), "request.inputs.0.parameters.a"),
        (request(id=7), "request.id"),
        (request(outputs=[{}]), "request.outputs.0.name: Field required"),
    ],
)
def test_what_is_not_the_protocol(body: bytes, said: str) -> None:
    with pytest.raises(ProtocolError, match=said):
        parsed(body)


def test_large_texts_are_refused_unread() -> None:
    for body, said in (
        (b'{"id":"' + b"x" * MOST_BYTES + b'"}', "send tensors as binary data"),
        (b"[" + b"," * MOST_VALUES, "values"),
        (b":" * (MOST_KEYS + 1), "colons"),
    ):
        with pytest.raises(ProtocolError, match=said):
            parsed(body)


def test_what_is_made_of_the_text_counts() -> None:
    with pytest.raises(RequestNeedsTooMuchMemory):
        parsed(request(tensor(data=[0] * 1000)), memory=10_000)


LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
VALUES = st.recursive(LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner))
TENSORS = st.fixed_dictionaries(
    {"name": st.text(max_size=5) | VALUES, "datatype": st.sampled_from(("UINT8", "BYTES")), "shape": VALUES},
    optional={"data": VALUES, "parameters": st.fixed_dictionaries({"binary_data_size": VALUES}) | VALUES},
)


@tried(150)
@given(
    st.fixed_dictionaries(
        {"inputs": st.lists(TENSORS, max_size=3) | VALUES}, optional={"id": VALUES, "outputs": VALUES}
    ),
    st.binary(max_size=8),
)
def test_any_request_is_read_or_refused(said: dict[str, Any], rest: bytes) -> None:
    text = json.dumps(said).encode()
    try:
        found = parsed(text + rest, str(len(text)))
    except ProtocolError:
        return
    assert len(found.inputs) == len(said["inputs"])


@tried(100)
@given(st.binary(max_size=40), st.none() | st.integers(-2, 50).map(str) | st.text(max_size=3))
def test_any_bytes_are_read_or_refused(body: bytes, header: str | None) -> None:
    try:
        parsed(body, header)
    except ProtocolError:
        return
    assert header == "0" or body
