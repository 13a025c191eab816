"""From the tensors of a request to images for the pipeline."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from service.admission import Permit
from service.errors import TooManyImages
from service.open_inference.datatypes import BYTES, DATATYPES, UINT8, elements_of, split_bytes
from service.open_inference.errors import Code, ProtocolError, error_of, invalid
from service.open_inference.messages import InputTensor
from service.runtime.graph import INPUT

SHARED_MEMORY = "shared_memory_region"


def images_of(
    inputs: Sequence[InputTensor], shape: tuple[int, int, int], most: int, permit: Permit
) -> list[bytes | np.ndarray]:
    """The images of a request: encoded files, or pixels uint8 `(channels, height, width)`.

    Args:
        shape: channels, height and width of the model's input.
        most: images in a request.
        permit: holds what is copied.

    Raises:
        ProtocolError: there is not exactly one input, or it is not what the model takes.
        MemoryExhausted
    """
    expected = f"{UINT8} [N, {', '.join(map(str, shape))}] (pixels) or {BYTES} [N] (JPEG, PNG or WebP files)"
    if len(inputs) != 1 or inputs[0].name != INPUT:
        names = ", ".join(f"'{tensor.name}'" for tensor in inputs) or "none"
        raise invalid(f"the model has one input, '{INPUT}', {expected}; the request has {names}")
    (tensor,) = inputs
    if SHARED_MEMORY in tensor.parameters:
        raise ProtocolError(Code.UNSUPPORTED, "shared memory is not supported: send the tensor in the request")
    if tensor.datatype not in DATATYPES:
        raise invalid(f"input '{INPUT}' has the datatype '{tensor.datatype}', which the protocol does not know")
    if (tensor.raw is None) == (tensor.values is None):
        raise invalid(f"input '{INPUT}' needs its data once: as values or as raw bytes")
    elements = elements_of(tensor.shape, INPUT)
    is_pixels = tensor.datatype == UINT8 and tensor.shape[1:] == shape
    is_encoded = tensor.datatype == BYTES and len(tensor.shape) == 1
    if not (is_pixels or is_encoded):
        shown = f"{tensor.datatype} [{', '.join(map(str, tensor.shape))}]"
        raise invalid(f"input '{INPUT}' is {shown}; the model takes {expected}")
    if not elements:
        raise invalid(f"input '{INPUT}' holds no image: its shape begins with 0")
    if tensor.shape[0] > most:
        raise error_of(TooManyImages(max_images=most))
    return list(_pixels(tensor, elements, permit)) if is_pixels else list(_encoded(tensor, elements, permit))


def _pixels(tensor: InputTensor, elements: int, permit: Permit) -> np.ndarray:
    """uint8 of the tensor's shape; a view of its raw bytes."""
    raw = tensor.raw
    if tensor.values is not None:
        _check_count(len(tensor.values), elements, "values")
        permit.reserve_bytes(elements)
        try:
            raw = bytes(tensor.values)  # type: ignore[arg-type]
        except (ValueError, TypeError):
            raise invalid(f"input '{INPUT}' is {UINT8}: its values must be whole numbers from 0 to 255") from None
    assert raw is not None
    _check_count(len(raw), elements, "bytes")
    return np.frombuffer(raw, np.uint8).reshape(tensor.shape)


def _encoded(tensor: InputTensor, elements: int, permit: Permit) -> list[bytes]:
    if tensor.values is not None:
        _check_count(len(tensor.values), elements, "values")
        if not all(isinstance(value, bytes) for value in tensor.values):
            raise invalid(f"input '{INPUT}' is {BYTES}: its values must be bytes")
        return [value for value in tensor.values if isinstance(value, bytes)]
    assert tensor.raw is not None
    found = split_bytes(memoryview(tensor.raw), elements, INPUT)
    permit.reserve_bytes(sum(map(len, found)))
    return [bytes(element) for element in found]


def _check_count(found: int, expected: int, what: str) -> None:
    if found != expected:
        raise invalid(f"input '{INPUT}' has {found} {what}, and its shape {expected}")
