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


class Bits:
    """Writes a lossless bitstream: least significant bits first (RFC 9649, section 3)."""

    def __init__(self) -> None:
        self._bits: list[str] = []

    def put(self, *fields: tuple[int, int]) -> None:
        """Appends values, each given with its number of bits."""
        self._bits += [f"{value:0{length}b}"[::-1] for value, length in fields]

    def put_single_codes(self) -> None:
        """Five prefix codes of one symbol each, 0, which then takes no bits."""
        self.put(*[(0b0001, 4)] * 5)

    def put_code_of_bytes(self) -> None:
        """A prefix code whose symbols 0 to 255 have 8 bits."""
        self.put((0, 1), (12 - 4, 4))  # a normal code; the lengths of 12 lengths follow
        self.put(*((length in (8, 18), 3) for length in (17, 18, 0, 1, 2, 3, 4, 5, 16, 6, 7, 8)))
        self.put((1, 1), (3, 3), (254, 8), *[(0, 1)] * 256)  # 256 lengths, each the first of the two: 8

    def put_coded_byte(self, value: int) -> None:
        self.put((int(f"{value:08b}"[::-1], 2), 8))

    def webp(self) -> bytes:
        bits = "".join(self._bits)
        return webp(chunk(b"VP8L", int(bits[::-1], 2).to_bytes(-(-len(bits) // 8), "little") + bytes(8)))


def one_colour(width: int, height: int) -> bytes:
    """A lossless picture of any size in about 40 bytes."""
    bits = Bits()
    bits.put((0x2F, 8), (width - 1, 14), (height - 1, 14), (0, 1 + 3))  # no alpha; version
    bits.put((0, 1), (0, 1), (0, 1))  # no transforms, no colour cache, one group of codes
    bits.put_single_codes()
    return bits.webp()


def many_codes(side: int) -> bytes:
    """A lossless square with a group of prefix codes for every tile of 4x4 pixels."""
    tiles = (side // 4) ** 2
    bits = Bits()
    bits.put((0x2F, 8), (side - 1, 14), (side - 1, 14), (0, 1 + 3))
    bits.put((0, 1), (0, 1), (1, 1), (0, 3))  # no transforms, no colour cache, many groups, tiles of 4x4
    # The picture of groups: its green and red are the bytes of a group's number.
    bits.put((0, 1))
    bits.put_code_of_bytes()
    bits.put_code_of_bytes()
    bits.put(*[(0b0001, 4)] * 3)
    for tile in range(tiles):
        bits.put_coded_byte(tile & 255)
        bits.put_coded_byte(tile >> 8)
    for _ in range(tiles):
        bits.put_single_codes()
    return bits.webp()
