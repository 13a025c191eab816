"""The orientation in EXIF and XMP, whole, strange and damaged."""

from __future__ import annotations

import struct

import pytest
from PIL import Image

from service.runtime.images.exif import MAX_TAGS, PREFIX, orientation_of


def exif(*tags: tuple[int, int, int, bytes], order: str = "<") -> bytes:
    """An EXIF block whose first directory has these tags: number, field type, count and value."""
    entries = b"".join(struct.pack(order + "HHL4s", *tag) for tag in tags)
    head = b"II*\0" if order == "<" else b"MM\0*"
    return PREFIX + head + struct.pack(order + "LH", 8, len(tags)) + entries + bytes(4)


def orientation(value: int, kind: int = 3, count: int = 1, tag: int = 0x0112) -> tuple[int, int, int, bytes]:
    return tag, kind, count, value.to_bytes(4, "little")


@pytest.mark.parametrize("value", range(1, 9))
def test_what_pillow_writes(value: int) -> None:
    written = Image.Exif()
    written[0x0112] = value
    written[0x010F] = "Maker"
    block = written.tobytes()
    assert orientation_of(block, b"") == orientation_of(block.removeprefix(PREFIX), b"") == value
    assert orientation_of(PREFIX + block, b"") == value


@pytest.mark.parametrize(
    ("block", "value"),
    [
        (exif(orientation(6)), 6),
        (exif(orientation(6, kind=4)), 6),
        (exif((0x0112, 3, 1, b"\0\6\0\0"), order=">"), 6),
        (exif(orientation(3), orientation(6)), 3),  # the first one, as in Pillow
        (exif((0x0112, 3, 9**9, b"????"), orientation(6)), 6),
        (exif(orientation(6, kind=2)), 1),
        (exif(orientation(6, count=2)), 1),
        (exif(orientation(0)), 1),
        (exif(orientation(9)), 1),
        (exif(orientation(6))[:20], 1),
        (exif(orientation(6))[: len(PREFIX) + 8], 1),
        (exif(orientation(6)).replace(b"\x08", b"\xff"), 1),
        (PREFIX + b"GIF89a??", 1),
        (b"", 1),
    ],
)
def test_strange_blocks(block: bytes, value: int) -> None:
    assert orientation_of(block, b"") == value


def test_only_so_many_tags_are_read() -> None:
    others = [orientation(1, tag=1)] * (MAX_TAGS - 1)
    assert orientation_of(exif(*others, orientation(6)), b"") == 6
    assert orientation_of(exif(*others, *others, orientation(6)), b"") == 1


def test_xmp_is_read_if_exif_has_no_orientation() -> None:
    attribute, element = b'<x tiff:Orientation="8"/>', b"<tiff:Orientation>8</tiff:Orientation>"
    assert orientation_of(b"", attribute) == orientation_of(b"", element) == 8
    assert orientation_of(exif(orientation(1, tag=0x0100)), attribute) == 8
    assert orientation_of(exif(orientation(6)), attribute) == 6
    assert orientation_of(b"", b'<x tiff:Orientation="9"/>') == 1
