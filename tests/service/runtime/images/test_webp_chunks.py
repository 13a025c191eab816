"""The chunks of WebP files: the size, the orientation, and how many of them are read."""

from __future__ import annotations

import pytest
from PIL import Image

from service.runtime.faults import CorruptImage, TooComplexImage, TruncatedImage
from service.runtime.images.headers import read_layout
from service.runtime.images.layout import MAX_PARTS, Layout
from tests.service.runtime.images.pictures import encode, photograph
from tests.service.runtime.images.riff import chunk, extended, one_colour, webp


def layout(data: bytes) -> Layout:
    return read_layout(data, 10**9)


@pytest.mark.parametrize("options", [{}, {"lossless": True}, {"icc_profile": b"profile"}, {"save_all": True}])
@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_the_size_is_pillows(options: dict[str, object], mode: str) -> None:
    if "save_all" in options:
        options = {**options, "append_images": [Image.new(mode, (71, 50), "blue")]}
    found = layout(encode(photograph(71, 50).convert(mode), "WEBP", **options))
    assert (found.width, found.height) == (71, 50)


def test_the_size_of_one_colour() -> None:
    assert layout(one_colour(16_000, 9_000))[1:3] == (16_000, 9_000)


@pytest.mark.parametrize("value", [1, 6, 8])
def test_the_orientation(value: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = value
    assert layout(encode(photograph(71, 50), "WEBP", exif=exif)).orientation == value
    xmp = b'<x tiff:Orientation="%d"/>' % value
    assert layout(encode(photograph(71, 50), "WEBP", xmp=xmp)).orientation == value


def test_chunks_are_counted() -> None:
    picture = encode(photograph(71, 50), "WEBP")[12:]
    assert layout(webp(extended(71, 50), picture, chunk(b"ANMF") * (MAX_PARTS - 10))).width == 71
    with pytest.raises(TooComplexImage, match="more than 4000 chunks"):
        layout(webp(extended(71, 50), picture, chunk(b"ANMF") * MAX_PARTS))


def test_damaged_headers() -> None:
    data = encode(photograph(71, 50), "WEBP")
    for cut in (12, 20, 29):
        with pytest.raises(TruncatedImage):
            layout(data[:cut])
    for broken in (webp(chunk(b"VP8 ", bytes(20))), webp(chunk(b"VP8L", bytes(20))), webp(chunk(b"JUNK", bytes(20)))):
        with pytest.raises(CorruptImage):
            layout(broken)
