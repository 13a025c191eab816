"""Writes JPEG files that Pillow cannot write: single segments, and scans over and over."""

from __future__ import annotations

import re

from service.runtime.images.formats import JPEG_END

START = b"\xff\xd8"
# AC refinement of the first component (ITU-T T.81, section G.1.2.3) by one bit, with one code for 32,767 empty blocks.
# It is among the costliest that a few bytes can ask for.
REFINEMENT = b"\xff\xda" + b"\0\x08\1\1\0\1\x3f\x21" + b"\x7f\xfe\xff\0"


def segment(marker: int, content: bytes = b"") -> bytes:
    """A marker segment with its length (ITU-T T.81, section B.1.1.4)."""
    return bytes([0xFF, marker]) + (len(content) + 2).to_bytes(2, "big") + content


def insert(jpeg: bytes, between: bytes) -> bytes:
    """A JPEG with bytes after its start marker."""
    return START + between + jpeg.removeprefix(START)


def with_scans(progressive: bytes, added: int) -> bytes:
    """A progressive JPEG with more scans before its end marker."""
    return progressive.removesuffix(JPEG_END) + REFINEMENT * added + JPEG_END


def without_metadata(jpeg: bytes) -> bytes:
    """A JPEG as Pillow writes it, without its segments APPn and COM except JFIF and Adobe."""
    at = 2
    kept = START
    while jpeg[at + 1] != 0xDA:
        end = at + 2 + int.from_bytes(jpeg[at + 2 : at + 4], "big")
        found = jpeg[at:end]
        if not re.match(rb"\xff[\xe0-\xef\xfe]", found) or found[4:9] in (b"JFIF\0", b"Adobe"):
            kept += found
        at = end
    return kept + jpeg[at:]
