"""The chunks of PNG files, whole and cut off, and how many of them are read."""

from __future__ import annotations

import random
import zlib
from types import SimpleNamespace

import pytest

from service.runtime.faults import CorruptImage, TooComplexImage, TruncatedImage
from service.runtime.images import png_chunks
from service.runtime.images.formats import PNG_SIGNATURE
from service.runtime.images.headers import read_layout
from service.runtime.images.layout import Layout
from service.runtime.images.png_chunks import (
    CHUNK_BYTES,
    EXIF_KEY,
    MAX_CHUNKS,
    MAX_TEXT,
    XMP_KEY,
    read_chunks,
    significant_bits,
)
from tests.service.runtime.images.pictures import RED, encode
from tests.service.runtime.images.png import HEADER_END, chunk, insert_chunks

PNG = encode(RED)


def layout(png: bytes) -> Layout:
    return read_layout(png, 10_000)


def test_chunks_of_a_png() -> None:
    chunks = list(read_chunks(PNG))
    assert [kind for kind, _, _ in chunks] == [b"IHDR", b"IDAT", b"IEND"]
    assert b"".join(PNG[start:end] for _, start, end in chunks) == PNG[len(PNG_SIGNATURE) :]
    assert [kind for kind, _, _ in read_chunks(PNG[:-3])] == [b"IHDR", b"IDAT", b"IEND"]  # the last one is cut off
    assert list(read_chunks(PNG_SIGNATURE)) == []


def test_without_metadata_a_png_keeps_its_picture() -> None:
    header, rest = PNG[:HEADER_END], PNG[HEADER_END:]
    kept = chunk(b"sBIT", b"\5\6\5") + chunk(b"tRNS", bytes(6))
    full = header + chunk(b"tEXt", b"a\0b") + kept + chunk(b"pHYs", b"?") + rest[:-12] + chunk(b"zTXt") + rest[-12:]
    assert layout(full).stripped(full) == header + kept + rest
    assert layout(full + b"more").stripped(full + b"more") == header + kept + rest
    assert layout(PNG).stripped(PNG) is PNG
    for cut in (HEADER_END + 20, len(PNG) - 3):
        assert layout(PNG[:cut]).stripped(PNG[:cut]) == PNG[:cut]


def test_a_second_header_is_left_out() -> None:
    huge = (10**5).to_bytes(4, "big") * 2 + PNG[24:29]
    assert layout(insert_chunks(PNG, (b"IHDR", huge))).width == 64
    assert layout(twice := insert_chunks(PNG, (b"IHDR", huge))).stripped(twice) == PNG


def test_damaged_headers() -> None:
    for cut in (8, 20, 28):
        with pytest.raises(TruncatedImage):
            layout(PNG[:cut])
    for at, value in ((15, b"X"), (11, b"\x0e"), (25, b"\7"), (16, bytes(4))):
        with pytest.raises(CorruptImage):
            layout(PNG[:at] + value + PNG[at + len(value) :])


def test_chunks_are_counted() -> None:
    few = chunk(b"prVt") * (MAX_CHUNKS - 10)
    assert layout(PNG[:HEADER_END] + few + PNG[HEADER_END:]).width == 64
    with pytest.raises(TooComplexImage) as raised:
        layout(PNG[:HEADER_END] + few + chunk(b"prVt") * 10 + PNG[HEADER_END:])
    assert raised.value.members["most"] == MAX_CHUNKS


def test_a_large_file_may_have_more_chunks() -> None:
    pixels = chunk(b"IDAT", bytes(CHUNK_BYTES)) * (MAX_CHUNKS + 100)
    assert layout(PNG[:HEADER_END] + pixels + PNG[-12:]).width == 64


@pytest.mark.parametrize("profile", [b"\nexif\n       8\n", b"\ngeneric profile\n8\n"])
def test_the_orientation_of_older_programs(profile: bytes) -> None:
    """ImageMagick writes EXIF as hexadecimal text."""
    text = b"Raw profile type exif\0"
    exif = (b"Exif\0\0II*\0\x08\0\0\0\1\0\x12\1\3\0\1\0\0\0\6\0\0\0").hex().encode()
    assert layout(insert_chunks(PNG, (b"tEXt", text + profile + exif))).orientation == 6
    assert layout(insert_chunks(PNG, (b"zTXt", text + b"\0" + zlib.compress(profile + exif)))).orientation == 6
    assert layout(insert_chunks(PNG, (b"zTXt", text + b"\0?"))).orientation == 1
    assert layout(insert_chunks(PNG, (b"tEXt", text + profile + b"xyz"))).orientation == 1


@pytest.mark.parametrize("compressed", [False, True])
def test_the_orientation_in_xmp(compressed: bool) -> None:
    packet = b'<rdf:Description tiff:Orientation="8"/>'
    text = zlib.compress(packet) if compressed else packet
    content = b"XML:com.adobe.xmp\0" + bytes([compressed, 0]) + b"en\0key\0" + text
    assert layout(insert_chunks(PNG, (b"iTXt", content))).orientation == 8


def test_only_the_first_text_of_each_kind_is_unfolded(monkeypatch: pytest.MonkeyPatch) -> None:
    """9,900 texts in 3 MB, of 256 kB each, took five seconds."""
    unfolded = []

    class Watched:
        def __init__(self) -> None:
            self.unfolding = zlib.decompressobj()

        def decompress(self, content: bytes, most: int) -> bytes:
            assert len(content) <= MAX_TEXT
            unfolded.append(self.unfolding.decompress(content, most))
            return unfolded[-1]

    monkeypatch.setattr(png_chunks, "zlib", SimpleNamespace(decompressobj=Watched, error=zlib.error))
    packet, long = (zlib.compress(text) for text in (b'tiff:Orientation="8"', bytes(2 * MAX_TEXT)))
    noise = random.Random(0).randbytes(2 * MAX_TEXT)  # stored, not compressed
    first = (b"zTXt", XMP_KEY + b"\0" + packet)
    texts = [(b"zTXt", key + b"\0" + text) for text in (long, zlib.compress(noise)) for key in (XMP_KEY, EXIF_KEY)]
    assert layout(insert_chunks(PNG, first, *texts * 100)).orientation == 8
    assert [len(text) for text in unfolded] == [20, MAX_TEXT]
    unfolded.clear()
    damaged = [(b"zTXt", key + b"\0??") for key in (XMP_KEY, EXIF_KEY)]
    assert layout(insert_chunks(PNG, *damaged, first, *texts)).orientation == 1
    assert unfolded == []
    layout(insert_chunks(PNG, texts[2]))
    assert 0 < len(unfolded[0]) <= MAX_TEXT


def test_significant_bits() -> None:
    header, rest = PNG[:HEADER_END], PNG[HEADER_END:]
    assert significant_bits(PNG) is None
    assert significant_bits(header + chunk(b"sBIT", b"\5\6\5") + rest) == 6
    assert significant_bits(header + chunk(b"sBIT", b"\x0a\x0a\x0a\x10") + rest) == 10  # the last one is for alpha
    assert significant_bits(header + chunk(b"sBIT", b"") + rest) is None
    assert significant_bits(header + rest[:-12] + chunk(b"sBIT", b"\5") + rest[-12:]) is None  # after the pixels
