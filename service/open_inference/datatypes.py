"""The protocol's datatypes, and tensors as they stand on the wire: little-endian, row-major, without padding."""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from typing import Final

from service.open_inference.errors import invalid

BYTES: Final = "BYTES"
UINT8: Final = "UINT8"
FP32: Final = "FP32"
DATATYPES = frozenset(
    (
        *("BOOL", UINT8, "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64"),
        *("FP16", FP32, "FP64", "BF16", BYTES),
    )
)
MOST_DIMENSIONS = 8
LARGEST = 2**63 - 1
LENGTH = struct.Struct("<I")  # before each element of BYTES


def elements_of(shape: Sequence[int], name: str) -> int:
    """The number of elements of a tensor. Raises ProtocolError for a shape that no tensor has."""
    if len(shape) > MOST_DIMENSIONS or not all(0 <= size <= LARGEST for size in shape):
        raise invalid(f"the shape of input '{name}' is impossible: give up to {MOST_DIMENSIONS} sizes, none negative")
    return math.prod(shape)


def split_bytes(raw: memoryview, count: int, name: str) -> list[memoryview]:
    """The elements of a BYTES tensor. Copies nothing.

    Args:
        raw: each element is its length (uint32, little-endian) and as many bytes.
        count: how many elements there should be.

    Raises:
        ProtocolError: there are fewer or more, or the last one is cut off.
    """
    found: list[memoryview] = []
    at, end = 0, len(raw)
    while at < end:
        if len(found) == count:
            raise invalid(f"input '{name}' has {end - at} bytes after its {count} elements")
        if end - at < LENGTH.size:
            raise invalid(f"input '{name}' ends within the length of element {len(found)}")
        (size,) = LENGTH.unpack_from(raw, at)
        at += LENGTH.size
        if size > end - at:
            raise invalid(f"input '{name}': element {len(found)} has {size} bytes, and {end - at} are left")
        found.append(raw[at : at + size])
        at += size
    if len(found) < count:
        raise invalid(
            f"input '{name}' has {len(found)} elements and its shape {count}: each element of BYTES is its length "
            "(4 bytes, little-endian) and its bytes"
        )
    return found


def join_bytes(elements: Sequence[bytes]) -> bytes:
    """A BYTES tensor on the wire."""
    return b"".join(part for element in elements for part in (LENGTH.pack(len(element)), element))
