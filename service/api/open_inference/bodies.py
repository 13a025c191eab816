"""The body of an inference request: JSON, and with the binary tensor extension the bytes of tensors behind it.

https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_binary_data.md
"""

from __future__ import annotations

import binascii
from collections.abc import Sequence
from itertools import chain
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, FailFast, ValidationError
from pydantic_core import from_json

from service.admission import Permit
from service.open_inference.datatypes import BYTES, LENGTH, UINT8
from service.open_inference.errors import invalid
from service.open_inference.messages import InferRequest, InputTensor, Parameter, RequestedOutput
from service.runtime.graph import INPUT

HEADER = "Inference-Header-Content-Length"  # bytes of JSON at the beginning of a body
SIZE = "binary_data_size"
BINARY_OUTPUT = "binary_data"  # of one output
BINARY_OUTPUTS = "binary_data_output"  # of all that do not say it themselves

# Of one JSON text. Every parser holds up the event loop, on a thread too: these keep that below about 50 ms.
MOST_BYTES = 8 * 2**20
MOST_VALUES = 2**19  # with lists and objects
MOST_KEYS = 1024
VALUE_BYTES = 64  # of memory, at most, that a value takes


class _Part(BaseModel):
    model_config = ConfigDict(strict=True)


class _Input(_Part):
    name: str
    datatype: str
    shape: Annotated[list[int], FailFast()]
    parameters: dict[str, Parameter] | None = None
    data: Any = None


class _Output(_Part):
    name: str
    parameters: dict[str, Parameter] | None = None


class _Request(_Part):
    id: str | None = None
    parameters: dict[str, Parameter] | None = None
    inputs: Annotated[list[_Input], FailFast()]
    outputs: Annotated[list[_Output] | None, FailFast()] = None


def parse(
    body: bytes, header: str | None, name: str, version: str, shape: tuple[int, int, int], permit: Permit
) -> InferRequest:
    """
    Args:
        header: the value of the header `Inference-Header-Content-Length`; None without it.
        name, version: from the path.
        shape: channels, height and width of the model's input: what a raw request consists of.
        permit: holds what is made of the body.

    Raises:
        ProtocolError
        MemoryExhausted
    """
    length = len(body) if header is None else _length(header, len(body))
    if length == 0 and header is not None:
        pixels = InputTensor(INPUT, UINT8, (1, *shape), raw=body)
        return InferRequest(name, [pixels], version, parameters={BINARY_OUTPUTS: True})
    text = body if length == len(body) else body[:length]
    request = _read(text, permit)
    return InferRequest(
        name,
        _inputs(request.inputs, memoryview(body)[length:], permit),
        version,
        request.id or "",
        request.parameters or {},
        [RequestedOutput(output.name, output.parameters or {}) for output in request.outputs or ()],
    )


def _read(text: bytes, permit: Permit) -> _Request:
    """Raises ProtocolError or MemoryExhausted."""
    if len(text) > MOST_BYTES:
        raise invalid(f"the JSON has {len(text)} bytes; at most {MOST_BYTES} are read: send tensors as binary data")
    values = sum(text.count(mark) for mark in (b",", b"[", b"{"))
    if values > MOST_VALUES:
        raise invalid(f"the JSON has {values} values; at most {MOST_VALUES} are read: send tensors as binary data")
    if text.count(b":") > MOST_KEYS:
        raise invalid(f"the JSON has more than {MOST_KEYS} colons: no request of the protocol needs as many members")
    permit.reserve_bytes(VALUE_BYTES * values)
    try:
        return _Request.model_validate(from_json(text))
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        said = f"{'.'.join(('request', *map(str, first['loc'])))}: {first['msg']}"
        raise invalid(f"the request is not as the protocol says: {said}") from None
    except ValueError as error:
        raise invalid(f"the request is not JSON: {error}") from None


def _length(header: str, available: int) -> int:
    """Bytes of JSON. Raises ProtocolError."""
    length = int(header) if header.isascii() and header.isdecimal() and len(header) < 20 else -1
    if not 0 <= length <= available:
        raise invalid(
            f"the header {HEADER} is '{header[:20]}': give the bytes of JSON, from 0 to the {available} of the body"
        )
    return length


def _inputs(inputs: Sequence[_Input], rest: memoryview, permit: Permit) -> list[InputTensor]:
    """
    Args:
        rest: the body behind the JSON.
    """
    found = []
    for given in inputs:
        parameters = given.parameters or {}
        tensor = InputTensor(given.name, given.datatype, tuple(given.shape), parameters=parameters)
        size = parameters.get(SIZE)
        if given.data is not None:
            if size is not None:
                raise invalid(f"input '{given.name}' has both data and {SIZE}")
            tensor = tensor._replace(values=_values(given, permit))
        elif size is None and rest and len(inputs) == 1:
            tensor, rest = _all_of(tensor, rest, permit), rest[:0]
        elif isinstance(size, str):
            tensor, rest = _files(tensor, size, rest, permit)
        elif size is not None:
            tensor, rest = tensor._replace(raw=_cut(rest, size, given.name)), rest[int(size) :]
        found.append(tensor)
    if rest:
        raise invalid(f"the body has {len(rest)} bytes behind the JSON and the tensors that it announces")
    return found


def _cut(rest: memoryview, size: object, name: str) -> memoryview:
    """The next `size` bytes. Raises ProtocolError."""
    if isinstance(size, bool) or not isinstance(size, int) or not 0 <= size <= len(rest):
        raise invalid(f"{SIZE} of input '{name}' is {size!r}: {len(rest)} bytes are left of the body")
    return rest[:size]


def _all_of(tensor: InputTensor, rest: memoryview, permit: Permit) -> InputTensor:
    """A single input without a size, as OpenVINO Model Server takes it: BYTES may then be one file without its length.

    No JPEG, PNG or WebP file begins with its own length.
    """
    if tensor.datatype == BYTES and tensor.shape == (1,):
        whole = len(rest) >= LENGTH.size and LENGTH.unpack_from(rest)[0] == len(rest) - LENGTH.size
        if not whole:
            permit.reserve_bytes(len(rest))
            return tensor._replace(values=[bytes(rest)])
    return tensor._replace(raw=rest)


def _files(tensor: InputTensor, sizes: str, rest: memoryview, permit: Permit) -> tuple[InputTensor, memoryview]:
    """Files one after the other, with sizes as `370,480,500`: from older clients of OpenVINO Model Server."""
    files = []
    for size in sizes.split(","):
        number = int(size) if size.isascii() and size.isdecimal() and len(size) < 20 else -1
        part = _cut(rest, number, tensor.name)
        permit.reserve_bytes(len(part))
        files.append(bytes(part))
        rest = rest[number:]
    return tensor._replace(values=files), rest


def _values(given: _Input, permit: Permit) -> list[Any]:
    """The data, flat; strings of BYTES are base64. Raises ProtocolError."""
    data = given.data
    if not isinstance(data, list):
        raise invalid(f"the data of input '{given.name}' is no list")
    for level, size in enumerate(given.shape):
        if not (data and isinstance(data[0], list)):
            break
        if level == 0:
            if len(data) != size:
                raise invalid(f"input '{given.name}' has {len(data)} rows, and its shape {size}")
            continue
        if not all(isinstance(row, list) and len(row) == size for row in data):
            raise invalid(f"the nested data of input '{given.name}' does not have its shape")
        data = list(chain.from_iterable(data))
    if given.datatype != BYTES:
        return data
    return [_decoded(value, number, given.name, permit) for number, value in enumerate(data)]


def _decoded(value: object, number: int, name: str, permit: Permit) -> bytes:
    try:
        if not isinstance(value, str):
            raise ValueError
        permit.reserve_bytes(3 * len(value) // 4)
        return binascii.a2b_base64(value, strict_mode=True)
    except ValueError:  # binascii.Error is one
        raise invalid(
            f"input '{name}': element {number} is not base64, which JSON needs for files: send them as binary data"
        ) from None
