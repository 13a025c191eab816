"""Every fit, shape and number of channels: one definition for training and serving, compared with plain Pillow."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageOps

from service.runtime.images.decoding import decode
from service.runtime.images.headers import SHRINK_MARGIN, read_header, shrink_divisor, smallest_size
from service.runtime.images.resizing import network_input
from service.runtime.preprocessing import Preprocessing
from tests.service.runtime.images.pictures import encode, jpeg_with_orientation, photograph
from tests.support.mutations import tried

FITS = ("crop", "squash", "letterbox")
PREPROCESSING = st.builds(
    lambda height, width, margin, **fields: Preprocessing(
        crop=(height, width), resize=max(height, width) + margin, **fields
    ),
    st.integers(1, 60),
    st.integers(1, 60),
    st.integers(0, 20),
    fit=st.sampled_from(FITS),
    fill=st.tuples(*[st.integers(0, 255)] * 3),
    channels=st.sampled_from((1, 3)),
    interpolation=st.sampled_from(("bilinear", "bicubic", "lanczos")),
)


def seen(image: Image.Image, preprocessing: Preprocessing, **options: Any) -> np.ndarray:
    return decode(encode(image), preprocessing, max_pixels=10**7, **options).pixels


@tried(60)
@given(preprocessing=PREPROCESSING, width=st.integers(1, 120), height=st.integers(1, 120))
def test_serving_sees_what_training_sees(preprocessing: Preprocessing, width: int, height: int) -> None:
    image = photograph(width, height)
    pixels = seen(image, preprocessing)
    assert pixels.shape == preprocessing.shape
    assert pixels.dtype == np.uint8
    assert pixels.flags.c_contiguous
    assert np.array_equal(pixels, network_input(image, preprocessing))


def test_a_squashed_image_is_all_there() -> None:
    image = photograph(500, 375)
    expected = np.asarray(image.resize((160, 96), Image.Resampling.BILINEAR)).transpose(2, 0, 1)
    assert np.array_equal(seen(image, Preprocessing(crop=(96, 160), fit="squash")), expected)


@pytest.mark.parametrize("size", [(500, 375), (375, 500), (96, 96), (1000, 3), (3, 1000)])
def test_a_letterbox_keeps_the_proportions(size: tuple[int, int]) -> None:
    image = photograph(*size)
    fill = (200, 30, 90)
    pixels = seen(image, Preprocessing(crop=(96, 160), fit="letterbox", fill=fill))
    expected = ImageOps.pad(image, (160, 96), Image.Resampling.BILINEAR, color=fill)
    inner = ImageOps.contain(image, (160, 96), Image.Resampling.BILINEAR).size
    if min(inner) > 1:  # Pillow's own would make it 0 pixels thin
        assert np.abs(pixels.astype(int) - np.asarray(expected).transpose(2, 0, 1)).max() <= 1
    bars = (pixels == np.array(fill, np.uint8)[:, None, None]).all(axis=0)
    assert bars.sum() >= 96 * 160 - max(1, inner[0]) * max(1, inner[1])


def test_a_crop_need_not_be_square() -> None:
    image = photograph(500, 375)
    resized = image.resize((341, 256), Image.Resampling.BILINEAR)
    left, top = round((341 - 224) / 2), round((256 - 160) / 2)
    expected = np.asarray(resized.crop((left, top, left + 224, top + 160))).transpose(2, 0, 1)
    pixels = seen(image, Preprocessing(crop=(160, 224)))
    assert np.abs(pixels.astype(int) - expected.astype(int)).max() <= 2


def test_one_channel_is_pillows_grey() -> None:
    image = photograph(500, 375)
    colour = seen(image, Preprocessing(crop=(96, 160), fit="squash"))
    grey = seen(image, Preprocessing(crop=(96, 160), fit="squash", channels=1))
    assert np.array_equal(grey[0], np.asarray(Image.fromarray(colour.transpose(1, 2, 0)).convert("L")))


def test_grey_stays_as_it_is() -> None:
    values = np.arange(256, dtype=np.uint8).reshape(16, 16)
    pixels = seen(Image.fromarray(values), Preprocessing(crop=16, resize=16, channels=1))
    assert np.array_equal(pixels, values[None])


@pytest.mark.parametrize("fit", FITS)
@pytest.mark.parametrize("scaled", [True, False])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation(fit: str, orientation: int, scaled: bool) -> None:
    data = jpeg_with_orientation(photograph(90, 75), orientation)
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    preprocessing = Preprocessing.model_validate({"fit": fit, "resize": 80, "crop": (50, 80), "fill": (1, 2, 3)})
    pixels = decode(data, preprocessing, max_pixels=10_000, scaled=scaled).pixels
    expected = network_input(upright, preprocessing)
    # Swapping the axes swaps the two passes of the resize, and values are rounded in between.
    assert np.abs(pixels.astype(int) - expected).max() <= (0 if orientation < 5 else 1)


@pytest.mark.parametrize("fit", FITS)
@pytest.mark.parametrize("orientation", [1, 6])
@pytest.mark.parametrize("size", [(4000, 3000), (800, 600), (4000, 300), (300, 4000)])
def test_a_scaled_photograph_keeps_enough_pixels(fit: str, orientation: int, size: tuple[int, int]) -> None:
    data = jpeg_with_orientation(Image.new("RGB", size), orientation)
    preprocessing = Preprocessing.model_validate({"fit": fit, "crop": (100, 200), "resize": 200})
    layout = read_header(data, preprocessing, max_pixels=10**8).layout
    smallest = smallest_size(layout, preprocessing)
    divisor = shrink_divisor(layout, smallest)
    if divisor > 1:
        assert layout.width / divisor >= smallest[0]
        assert layout.height / divisor >= smallest[1]
    across, down = (200, 100) if orientation == 1 else (100, 200)  # as stored
    if fit == "squash":
        assert smallest == (round(SHRINK_MARGIN * across), round(SHRINK_MARGIN * down))
        times = min(size[0] // smallest[0], size[1] // smallest[1])
        assert divisor == max(d for d in (1, 2, 4, 8) if d == 1 or times >= d)


def test_a_scaled_letterbox_differs_little() -> None:
    data = encode(photograph(1600, 1200), "JPEG", quality=95)
    preprocessing = Preprocessing(crop=(100, 200), fit="letterbox")
    scaled, whole = (
        decode(data, preprocessing, max_pixels=10**7, scaled=scaled).pixels.astype(int) for scaled in (True, False)
    )
    assert not np.array_equal(scaled, whole)
    assert np.abs(scaled - whole).mean() < 2
