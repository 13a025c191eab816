"""The chunks of a PNG file, read and filtered without decoding a pixel."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from service.runtime.images.formats import PNG_SIGNATURE

# Ancillary chunks that change what is shown (PNG specification, section 11.3).
PICTURE_CHUNKS = (b"tRNS", b"sBIT", b"eXIf")

MAX_CHUNKS = 10_000  # a limit on the work that a hostile file can cause


class Chunk(NamedTuple):
    """A chunk of a PNG (PNG specification, section 5.3)."""

    kind: bytes
    content: memoryview
    start: int  # of the whole chunk, as an offset into the file
    end: int


def read_chunks(data: bytes) -> Iterator[Chunk]:
    """The first `MAX_CHUNKS` chunks of a PNG. The last one may be cut off."""
    view = memoryview(data)
    at = len(PNG_SIGNATURE)
    for _ in range(MAX_CHUNKS):
        if at + 8 > len(view):
            return
        length = int.from_bytes(view[at : at + 4])
        yield Chunk(bytes(view[at + 4 : at + 8]), view[at + 8 : at + 8 + length], at, min(at + 12 + length, len(view)))
        at += 12 + length


def significant_bits(data: bytes) -> int | None:
    """How many bits of each sample were measured (sBIT), the largest of all colours; None if the file does not say."""
    for kind, content, _, _ in read_chunks(data):
        if kind == b"IDAT":
            return None
        if kind == b"sBIT":
            return max(content[:3], default=None)
    return None


def strip_metadata(data: bytes) -> bytes:
    """A PNG without chunks that do not change the picture: texts, profiles, times and the like."""
    kept = bytearray(PNG_SIGNATURE)
    end = len(PNG_SIGNATURE)
    for kind, _, start, end in read_chunks(data):
        is_critical = kind[:1].isupper()
        if is_critical or kind in PICTURE_CHUNKS:
            kept += data[start:end]
    return bytes(kept) + data[end:]
