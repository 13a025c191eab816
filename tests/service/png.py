"""Pieces of PNG files, which Pillow does not write one by one."""

from __future__ import annotations

import zlib


def chunk(kind: bytes, content: bytes = b"") -> bytes:
    """A chunk with its length and its checksum (PNG specification, section 5.3)."""
    return len(content).to_bytes(4, "big") + kind + content + zlib.crc32(kind + content).to_bytes(4, "big")
