"""16-bit PNGs, scaled by the bits that their values have."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from service.runtime.images.decoding import decode
from service.runtime.preprocessing import Preprocessing
from tests.service.runtime.images.pictures import corner, encode, pixels
from tests.service.runtime.images.png import insert_chunks, png_of_16_bit_colours


def test_16_bit_grey_keeps_its_shades() -> None:
    image = Image.fromarray(np.full((32, 32), 0x8000, np.uint16))
    assert corner(encode(image)) == (0x80, 0x80, 0x80)


@pytest.mark.parametrize(
    ("largest", "bits"), [(0xFF, 8), (0x100, 10), (0x3FF, 10), (0xFFF, 12), (0x3FFF, 14), (0x4000, 16), (0xFFFF, 16)]
)
def test_16_bit_grey_is_scaled_by_the_bits_that_its_values_need(largest: int, bits: int) -> None:
    """X-ray machines and depth cameras store 10, 12 or 14 bits in 16."""
    grey = np.full((32, 32), largest // 2, np.uint16)
    grey[16, 16] = largest
    assert corner(encode(Image.fromarray(grey))) == (largest // 2 >> (bits - 8),) * 3


def test_16_bit_grey_is_scaled_by_the_bits_that_the_file_names() -> None:
    png = encode(Image.fromarray(np.full((32, 32), 0x123, np.uint16)))
    assert corner(png) == (0x123 >> 2,) * 3
    assert corner(insert_chunks(png, (b"sBIT", b"\x0c"))) == (0x12,) * 3
    assert corner(insert_chunks(png, (b"tEXt", b"a\0b"), (b"sBIT", b"\x10"))) == (0x01,) * 3
    for nonsense in (b"\x08", b"\x00", b"\xff", b""):  # too few bits for the values, or impossible
        assert corner(insert_chunks(png, (b"sBIT", nonsense))) == (0x123 >> 2,) * 3


def test_16_bit_grey_with_a_transparent_shade_is_not_all_white() -> None:
    image = Image.fromarray(np.full((32, 32), 0x4000, np.uint16))
    assert corner(encode(image, transparency=0)) == (0x40, 0x40, 0x40)


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
def test_16_bit_colours_are_scaled_as_grey_is(bits: int) -> None:
    rng = np.random.default_rng(bits)
    eight = rng.integers(0, 256, (64, 48, 3)).astype(np.uint16)
    eight[0, 0] = 255
    noise = rng.integers(0, 1 << (bits - 8), eight.shape).astype(np.uint16)  # in the lower bits
    plain = pixels(encode(Image.fromarray(eight.astype(np.uint8))))
    deep = png_of_16_bit_colours(eight << (bits - 8) | noise)
    np.testing.assert_array_equal(pixels(deep), plain)
    damaged_metadata = (b"tIME", b"?")
    np.testing.assert_array_equal(pixels(insert_chunks(deep, damaged_metadata)), plain)


@pytest.mark.parametrize("alpha", [0xFFF, 0xFFFF])
def test_16_bit_colours_with_transparency(alpha: int) -> None:
    samples = np.full((32, 32, 4), 0x456, np.uint16)
    samples[16, 16, 0] = 0xFFF
    samples[..., 3] = alpha
    assert corner(png_of_16_bit_colours(samples)) == (0x45,) * 3
    samples[..., 3] = 0
    assert corner(png_of_16_bit_colours(samples)) == (255, 255, 255)


def test_16_bit_colours_are_scaled_by_the_bits_that_the_file_names() -> None:
    png = png_of_16_bit_colours(np.full((32, 32, 3), 0x123, np.uint16))
    assert corner(png) == (0x123 >> 2,) * 3
    assert corner(insert_chunks(png, (b"sBIT", b"\x0c\x0c\x0c"))) == (0x12,) * 3
    assert corner(insert_chunks(png, (b"sBIT", b"\x10\x10\x10"))) == (0x01,) * 3


WINDOW = (1000, 3000)


def windowed(png: bytes) -> np.ndarray:
    preprocessing = Preprocessing(resize=32, crop=32, window=WINDOW, channels=1)
    return decode(png, preprocessing, max_pixels=10_000).pixels[0]


def expected(values: np.ndarray) -> np.ndarray:
    low, high = WINDOW
    return np.rint((np.clip(values.astype(float), low, high) - low) * 255 / (high - low))


def test_a_window_of_the_card_decides_for_grey() -> None:
    values = np.random.default_rng(0).integers(0, 2**16, (32, 32)).astype(np.uint16)
    values[0] = np.linspace(900, 3100, 32)
    png = encode(Image.fromarray(values))
    assert np.abs(windowed(png) - expected(values)).max() <= 0.5
    assert np.array_equal(windowed(insert_chunks(png, (b"sBIT", b"\x10"))), windowed(png))  # whatever the file says


def test_a_window_of_the_card_decides_for_colours() -> None:
    grey = np.linspace(0, 5000, 32 * 32).reshape(32, 32).astype(np.uint16)
    png = png_of_16_bit_colours(np.repeat(grey[..., None], 3, axis=2))
    assert np.abs(windowed(png) - expected(grey)).max() <= 1


def test_a_window_changes_nothing_of_8_bits() -> None:
    image = Image.fromarray(np.arange(1024, dtype=np.uint16).reshape(32, 32).astype(np.uint8))
    assert np.array_equal(windowed(encode(image)), np.asarray(image))
