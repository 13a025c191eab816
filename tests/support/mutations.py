"""Changes of valid data and ways to cut it, for hypothesis; and how properties are tried: alike in every run."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Sequence
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

POSITION = st.integers(0, 3000)

# A change of data: to a byte, the removal of some bytes, a copy of some bytes to another place, or its end.
CHANGE = st.one_of(
    st.tuples(st.just("set"), POSITION, st.integers(0, 255)),
    st.tuples(st.just("cut"), POSITION, st.integers(1, 64)),
    st.tuples(st.just("copy"), POSITION, POSITION),
    st.tuples(st.just("end"), POSITION, st.just(0)),
)
CHANGES = st.lists(CHANGE, min_size=1, max_size=5)
CUTS = st.lists(POSITION, max_size=6)


def tried(count: int) -> Callable[[Any], Any]:
    """Tries a property with this many examples in `make test-all`, and with a third of them elsewhere."""
    return settings(
        max_examples=count if "ALL_EXAMPLES" in os.environ else count // 3,
        derandomize=True,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )


def changed(data: bytes, changes: Sequence[tuple[str, int, int]]) -> bytes:
    for kind, at, value in changes:
        data = _changed(data, kind, at, value)
    return data


def pieces(data: bytes, cuts: Sequence[int]) -> list[bytes]:
    """The data, cut at these places (modulo its length)."""
    marks = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    return [data[a:b] for a, b in itertools.pairwise(marks)]


def _changed(data: bytes, kind: str, at: int, value: int) -> bytes:
    at %= len(data) + 1
    if kind == "set":
        return data[:at] + bytes([value]) + data[at + 1 :]
    if kind == "cut":
        return data[:at] + data[at + value :]
    if kind == "copy":
        return data[:at] + data[value % (len(data) + 1) :][:64] + data[at:]
    return data[:at]
