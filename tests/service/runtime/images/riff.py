"""Writes WebP files that Pillow cannot write: single chunks, and pictures of few bytes and many pixels."""

from __future__ import annotations


def chunk(kind: bytes, content: bytes = b"") -> bytes:
    """A chunk with its length, padded (RFC 9649, section 2.3)."""
    return kind + len(content).to_bytes(4, "little") + content + bytes(len(content) % 2)


def webp(*chunks: bytes) -> bytes:
    content = b"WEBP" + b"".join(chunks)
    return b"RIFF" + len(content).to_bytes(4, "little") + content


def extended(width: int, height: int, flags: int = 0) -> bytes:
    """The chunk VP8X, which an extended file starts with."""
    return chunk(b"VP8X", bytes([flags, 0, 0, 0]) + b"".join((n - 1).to_bytes(3, "little") for n in (width, height)))


def one_colour(width: int, height: int) -> bytes:
    """A lossless picture of any size in about 40 bytes: every prefix code has one symbol, which takes no bits."""
    bits = "".join(
        f"{value:0{length}b}"[::-1]  # least significant bit first
        for value, length in [
            (0x2F, 8),
            (width - 1, 14),
            (height - 1, 14),
            (0, 1 + 3),  # no alpha; version
            (0, 1 + 1 + 1),  # no transforms, no colour cache, one group of codes
            *[(0b0001, 4)] * 5,  # a simple code of one symbol: 0
        ]
    )
    content = int(bits[::-1], 2).to_bytes(-(-len(bits) // 8), "little")
    return webp(chunk(b"VP8L", content + bytes(4)))
