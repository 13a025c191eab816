"""The chunks of PNG files, whole and cut off."""

from __future__ import annotations

from service.runtime.images.formats import PNG_SIGNATURE
from service.runtime.images.png_chunks import MAX_CHUNKS, read_chunks, significant_bits, strip_metadata
from tests.service.runtime.images.pictures import RED, encode
from tests.service.runtime.images.png import HEADER_END, chunk


def test_chunks_of_a_png() -> None:
    png = encode(RED)
    assert [found.kind for found in read_chunks(png)] == [b"IHDR", b"IDAT", b"IEND"]
    assert b"".join(png[found.start : found.end] for found in read_chunks(png)) == png[len(PNG_SIGNATURE) :]
    assert [found.kind for found in read_chunks(png[:-3])] == [b"IHDR", b"IDAT", b"IEND"]  # the last one is cut off
    assert list(read_chunks(PNG_SIGNATURE)) == []
    endless = PNG_SIGNATURE + chunk(b"prVt") * (MAX_CHUNKS + 5)
    assert len(list(read_chunks(endless))) == MAX_CHUNKS


def test_without_metadata_a_png_keeps_its_picture() -> None:
    png = encode(RED)
    header, rest = png[:HEADER_END], png[HEADER_END:]
    kept = chunk(b"sBIT", b"\5\6\5") + chunk(b"tRNS", bytes(6)) + chunk(b"eXIf", b"MM")
    full = header + chunk(b"tEXt", b"a\0b") + kept + chunk(b"pHYs", b"?") + rest[:-12] + chunk(b"zTXt") + rest[-12:]
    assert strip_metadata(full) == header + kept + rest
    assert strip_metadata(png) == png
    for cut in (len(PNG_SIGNATURE), 20, 40, len(png) - 5):
        assert strip_metadata(png[:cut]) == png[:cut]


def test_significant_bits() -> None:
    png = encode(RED)
    header, rest = png[:HEADER_END], png[HEADER_END:]
    assert significant_bits(png) is None
    assert significant_bits(header + chunk(b"sBIT", b"\5\6\5") + rest) == 6
    assert significant_bits(header + chunk(b"sBIT", b"\x0a\x0a\x0a\x10") + rest) == 10  # the last one is for alpha
    assert significant_bits(header + chunk(b"sBIT", b"") + rest) is None
    assert significant_bits(header + rest[:-12] + chunk(b"sBIT", b"\5") + rest[-12:]) is None  # after the pixels
