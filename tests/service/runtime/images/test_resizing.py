"""Resize and crop: the grid, the filters, and the same pixels with and without the C extension."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from service.runtime.images import resizing
from service.runtime.images.decoding import decode
from service.runtime.images.resizing import network_view, to_array, view_of
from service.runtime.preprocessing import Interpolation, Preprocessing
from tests.service.runtime.images.pictures import STANDARD, WHOLE, encode, photograph, real_photograph, reference


@pytest.mark.parametrize("size", [(500, 375), (375, 500), (640, 427), (224, 224), (256, 256), (97, 1201), (1999, 300)])
@pytest.mark.parametrize("preprocessing", [STANDARD, Preprocessing(resize=232), WHOLE], ids=["256", "232", "32"])
def test_pixels_are_those_of_resize_then_crop(size: tuple[int, int], preprocessing: Preprocessing) -> None:
    image = photograph(*size)
    ours = to_array(network_view(image, preprocessing))
    theirs = reference(image, preprocessing)
    assert ours.shape == (3, preprocessing.crop, preprocessing.crop)
    assert ours.dtype == np.uint8
    assert ours.flags.c_contiguous
    # Pillow rounds to whole grey levels between its two passes, and their order may depend on the box. A grid that is
    # off by a hundredth of a pixel, or another filter, differs by far more than that.
    difference = np.abs(ours.astype(int) - theirs.astype(int))
    assert difference.max() <= 2
    assert difference.mean() < 0.25


def test_a_shifted_grid_would_be_noticed() -> None:
    image = photograph(500, 375)
    shifted = image.resize(image.size, Image.Resampling.BILINEAR, (0.1, 0, 500, 375))
    ours, theirs = (to_array(network_view(i, STANDARD)).astype(int) for i in (image, shifted))
    difference = np.abs(ours - theirs)
    assert difference.mean() > 0.25


def test_the_filter_is_the_one_in_the_card() -> None:
    image = photograph(500, 375)
    by_filter = [
        to_array(network_view(image, Preprocessing(interpolation=name))) for name in ("bilinear", "bicubic", "lanczos")
    ]
    assert not np.array_equal(by_filter[0], by_filter[1])
    assert not np.array_equal(by_filter[1], by_filter[2])


def test_the_box_of_the_crop() -> None:
    assert view_of((256, 256), STANDARD).box == (16, 16, 240, 240)
    assert view_of((1024, 512), STANDARD).box == (288, 32, 736, 480)
    assert view_of((32, 64), WHOLE).box == (0, 16, 32, 48)


@pytest.mark.parametrize(
    ("size", "mode", "file_format"),
    [
        ((500, 375), "RGB", "PNG"),
        ((1201, 97), "RGB", "PNG"),
        ((500, 375), "RGB", "JPEG"),
        ((500, 375), "RGB", "WEBP"),
        ((2600, 1900), "RGB", "JPEG"),
        ((1, 1), "RGB", "PNG"),
        ((500, 375), "L", "PNG"),
        ((500, 375), "P", "PNG"),
        ((500, 375), "RGBA", "PNG"),
        ((300, 500), "RGB", "PNG"),
    ],
    ids=["PNG", "wide", "JPEG", "WEBP", "large", "pixel", "grey", "palette", "alpha", "tall"],
)
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "lanczos"])
def test_without_the_extension_the_pixels_are_the_same(
    size: tuple[int, int],
    mode: str,
    file_format: str,
    interpolation: Interpolation,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    data = encode(photograph(*size).convert(mode), file_format)
    preprocessing = Preprocessing(interpolation=interpolation)
    fast = decode(data, preprocessing, max_pixels=10**9)
    monkeypatch.setattr(resizing, "resample", None)
    slow = decode(data, preprocessing, max_pixels=10**9)
    assert np.array_equal(fast.pixels, slow.pixels)
    assert fast[1:] == slow[1:]
    for decoded in (fast, slow):
        assert (decoded.pixels.dtype, decoded.pixels.shape) == (np.uint8, (3, 224, 224))
        assert decoded.pixels.flags.c_contiguous


def test_an_image_that_pillow_stores_in_several_blocks() -> None:
    """A block is 16 MB. Pillow itself resizes such an image."""
    image = real_photograph(2400, 2000)
    with pytest.raises(ValueError, match=r"memory|block|layout"):
        image.__arrow_c_array__()
    decoded = decode(encode(image, compress_level=1), STANDARD, max_pixels=10**9)
    assert np.array_equal(decoded.pixels, to_array(network_view(image, STANDARD)))


def test_transparent_edges_are_those_of_flattening_first() -> None:
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 256, (90, 120, 4), dtype=np.uint8), "RGBA")
    paper = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    ours = decode(encode(image), WHOLE, max_pixels=20_000).pixels.astype(int)
    assert np.abs(ours - to_array(network_view(paper, WHOLE))).max() <= 2
