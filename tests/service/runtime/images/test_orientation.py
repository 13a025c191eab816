"""EXIF orientation, in decoded pixels."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image, ImageOps

from service.runtime.images.decoding import decode
from service.runtime.images.headers import read_layout
from service.runtime.images.orientation import ORIENTATIONS, UPRIGHT
from service.runtime.images.resizing import network_view, to_array
from service.runtime.preprocessing import Preprocessing
from tests.service.runtime.images.pictures import WHOLE, corner, encode, jpeg_with_orientation, photograph


def test_the_orientation_is_applied() -> None:
    image = Image.new("RGB", (64, 32), "red")
    image.paste("blue", (0, 0, 8, 32))
    exif = Image.Exif()
    exif[0x0112] = 6  # viewers rotate it by 90 degrees clockwise
    decoded = decode(encode(image, "JPEG", exif=exif, quality=95), WHOLE, max_pixels=10_000)
    assert (decoded.width, decoded.height) == (32, 64)
    assert decode(encode(image, "JPEG", exif=exif), WHOLE, max_pixels=10_000).pixels.shape == (3, 32, 32)
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(encode(image, "JPEG", exif=exif, quality=95))))
    assert np.array_equal(decoded.pixels, to_array(network_view(upright, WHOLE)))


@pytest.mark.parametrize("scaled", [True, False])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_is_shown_as_a_viewer_does(orientation: int, scaled: bool) -> None:
    data = jpeg_with_orientation(photograph(90, 75), orientation)
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    decoded = decode(data, Preprocessing(resize=60, crop=40), max_pixels=10_000, scaled=scaled)
    assert (decoded.width, decoded.height) == upright.size == ((90, 75) if orientation < 5 else (75, 90))
    expected = to_array(network_view(upright, Preprocessing(resize=60, crop=40))).astype(int)
    # Swapping the axes swaps the two passes of the resize, and values are rounded in between.
    assert np.abs(decoded.pixels - expected).max() <= (0 if orientation < 5 else 1)


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_an_invalid_orientation_means_upright(orientation: int) -> None:
    data = jpeg_with_orientation(photograph(90, 61), orientation)
    assert ORIENTATIONS[read_layout(data, 10_000).orientation] == UPRIGHT
    plain = decode(encode(photograph(90, 61), "JPEG", quality=92), WHOLE, max_pixels=10_000)
    assert np.array_equal(decode(data, WHOLE, max_pixels=10_000).pixels, plain.pixels)


def test_unreadable_exif_is_ignored() -> None:
    data = encode(Image.new("RGB", (32, 32), "red"), "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    assert corner(data)[0] > 240
