from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from model_export.evaluation.crops import resized_whole, shorter_sides, ten_crops
from service.runtime.images.decoding import decode
from service.runtime.preprocessing import Interpolation, Preprocessing

SIZES = [(400, 300), (300, 400), (251, 173), (64, 64), (900, 40)]


def noise(width: int, height: int) -> Image.Image:
    """Smooth like a photograph, and different everywhere."""
    coarse = np.random.default_rng((width, height)).integers(0, 256, (12, 12, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "lanczos"])
@pytest.mark.parametrize("size", SIZES)
def test_the_centre_crop_is_the_services(size: tuple[int, int], interpolation: Interpolation) -> None:
    preprocessing = Preprocessing(resize=64, crop=48, interpolation=interpolation)
    file = io.BytesIO()
    noise(*size).save(file, "PNG")
    served = decode(file.getvalue(), preprocessing, max_pixels=10**6).pixels
    crops = ten_crops(noise(*size), preprocessing)
    assert (crops.shape, crops.dtype) == ((10, 3, 48, 48), np.uint8)
    # the service resizes only the crop, with the same filter: rounding differs
    assert np.abs(crops[4].astype(int) - served).max() <= 2


def test_positions_of_the_crops() -> None:
    """Every pixel encodes its position: red the column, green the row."""
    rows, columns = np.mgrid[:10, :14].astype(np.uint8)
    image = Image.fromarray(np.stack([columns, rows, rows], axis=2))
    crops = ten_crops(image, Preprocessing(resize=10, crop=6))  # same size: nothing is resampled
    first_pixels = [(int(crop[1, 0, 0]), int(crop[0, 0, 0])) for crop in crops]
    assert first_pixels[:5] == [(0, 0), (0, 8), (4, 0), (4, 8), (2, 4)]
    np.testing.assert_array_equal(crops[5:], crops[:5, :, :, ::-1])


def test_shorter_sides() -> None:
    assert shorter_sides(224) == (224, 256, 384, 480, 640)
    assert shorter_sides(32) == (32, 37, 55, 69, 91)


def test_resized_whole() -> None:
    image = noise(90, 60)
    view = resized_whole(image, 32, "bilinear")
    assert (view.shape, view.dtype) == ((1, 3, 32, 48), np.uint8)
    assert resized_whole(noise(60, 91), 32, "bilinear").shape == (1, 3, 48, 32)  # 48.5 is rounded down
    np.testing.assert_array_equal(resized_whole(image, 60, "bilinear")[0], np.asarray(image).transpose(2, 0, 1))
    assert not np.array_equal(view, resized_whole(image, 32, "lanczos"))
