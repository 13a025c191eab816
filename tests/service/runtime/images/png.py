"""Writes PNG files that Pillow cannot write: single chunks, and 16-bit colours."""

from __future__ import annotations

import zlib

import numpy as np

from service.runtime.images.formats import PNG_SIGNATURE

HEADER_END = len(PNG_SIGNATURE) + 25  # of the signature and the chunk IHDR


def chunk(kind: bytes, content: bytes = b"") -> bytes:
    """A chunk with its length and checksum (PNG specification, section 5.3)."""
    return len(content).to_bytes(4, "big") + kind + content + zlib.crc32(kind + content).to_bytes(4, "big")


def insert_chunks(png: bytes, *chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG with chunks, given as kind and content, after its header."""
    return png[:HEADER_END] + b"".join(chunk(kind, content) for kind, content in chunks) + png[HEADER_END:]


def png_of_16_bit_colours(samples: np.ndarray) -> bytes:
    """A PNG of RGB or RGBA samples: uint16 (height, width, 3 or 4)."""
    height, width, channels = samples.shape
    header = width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes([16, 2 if channels == 3 else 6, 0, 0, 0])
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in samples)
    return PNG_SIGNATURE + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND")
