"""Tensors on the wire."""

from __future__ import annotations

import struct
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.open_inference.datatypes import elements_of, join_bytes, split_bytes
from service.open_inference.errors import ProtocolError


@given(st.lists(st.binary(max_size=20), max_size=5))
def test_elements_come_back_as_they_were(elements: list[bytes]) -> None:
    assert [bytes(one) for one in split_bytes(memoryview(join_bytes(elements)), len(elements), "x")] == elements


@given(st.binary(max_size=40), st.integers(0, 5))
def test_any_bytes_are_split_exactly_or_refused(raw: bytes, count: int) -> None:
    try:
        elements = split_bytes(memoryview(raw), count, "x")
    except ProtocolError:
        return
    assert len(elements) == count
    assert join_bytes([bytes(one) for one in elements]) == raw


@pytest.mark.parametrize(
    ("raw", "count", "said"),
    [
        (b"", 1, "0 elements and its shape 1"),
        (struct.pack("<I", 5) + b"four", 1, "element 0 has 5 bytes, and 4 are left"),
        (struct.pack("<I", 2**32 - 1), 1, "element 0 has 4294967295 bytes"),
        (join_bytes([b"a"]) + b"\1\0", 2, "ends within the length of element 1"),
        (join_bytes([b"a", b"b"]), 1, "5 bytes after its 1 elements"),
    ],
)
def test_what_does_not_fit_is_named(raw: bytes, count: int, said: str) -> None:
    with pytest.raises(ProtocolError, match=said):
        split_bytes(memoryview(raw), count, "x")


@pytest.mark.parametrize(("shape", "elements"), [((), 1), ((2, 3), 6), ((0, 3), 0), ((2**62, 2**62), 2**124)])
def test_elements_of_a_shape(shape: Sequence[int], elements: int) -> None:
    assert elements_of(shape, "x") == elements


@pytest.mark.parametrize("shape", [(-1, 3), (1,) * 9, (10**4000,)])
def test_impossible_shapes(shape: Sequence[int]) -> None:
    with pytest.raises(ProtocolError, match="impossible"):
        elements_of(shape, "x")
