"""What the network sees, as a PNG, and how it was decoded."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from service.runtime.faults import NotAnImage
from service.runtime.images.decoding import decode
from service.runtime.images.preview import DecodePath, decode_path, to_png
from tests.service.runtime.images.pictures import STANDARD, encode, jpeg_with_orientation, photograph

PLAIN = DecodePath(
    format="PNG",
    width=64,
    height=48,
    mode="RGB",
    bits=8,
    transparency=False,
    orientation=1,
    passes=1,
    divisor=1,
    lacks_end=False,
)


def path_of(data: bytes, *, scaled: bool = True) -> DecodePath:
    return decode_path(data, STANDARD, max_pixels=10_000_000, scaled=scaled)


@pytest.mark.parametrize("channels", [1, 3])
def test_a_png_has_exactly_the_pixels(channels: int) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (channels, 30, 40), dtype=np.uint8)
    again = np.asarray(Image.open(io.BytesIO(to_png(pixels))))
    assert np.array_equal(again if channels == 1 else again.transpose(2, 0, 1), pixels[0] if channels == 1 else pixels)


def test_a_plain_file() -> None:
    assert path_of(encode(Image.new("RGB", (64, 48)))) == PLAIN
    assert path_of(encode(Image.new("RGB", (64, 48)), "WEBP")) == PLAIN._replace(format="WEBP")


def test_what_a_file_stores() -> None:
    transparent = Image.new("RGBA", (64, 48), (255, 0, 0, 0))
    assert path_of(encode(transparent)) == PLAIN._replace(mode="RGBA", transparency=True)
    palette = Image.new("P", (64, 48))
    palette.putpalette([0, 0, 0, 255, 255, 255])
    stored = path_of(encode(palette, transparency=0, bits=1))
    assert stored == PLAIN._replace(mode="P", bits=1, transparency=True)
    deep = Image.fromarray(np.full((48, 64), 4000, np.uint16))
    assert path_of(encode(deep)) == PLAIN._replace(mode="I;16", bits=16)
    assert path_of(encode(Image.new("CMYK", (64, 48)), "JPEG")) == PLAIN._replace(format="JPEG", mode="CMYK")


def test_a_large_photograph_is_shrunk_while_it_is_decoded_and_turned_afterwards() -> None:
    data = jpeg_with_orientation(photograph(1300, 1100), 6)
    path = path_of(data)
    assert (path.width, path.height, path.orientation, path.divisor) == (1300, 1100, 6, 2)
    assert path_of(data, scaled=False).divisor == 1
    decoded = decode(data, STANDARD, max_pixels=10_000_000)
    assert (decoded.width, decoded.height) == (1100, 1300)


def test_scans_and_a_missing_end() -> None:
    data = encode(photograph(64, 48), "JPEG", progressive=True)
    assert path_of(data).passes > 1
    assert not path_of(data).lacks_end
    assert path_of(data[:-2]).lacks_end


def test_what_is_no_image() -> None:
    with pytest.raises(NotAnImage):
        path_of(b"certainly no image")
