"""The picture of the benchmarks: a real photograph of 500x375 pixels, as a camera's JPEG."""

from __future__ import annotations

import functools
import io

import numpy as np
from PIL import Image, ImageOps

SIZE = (500, 375)
QUALITY = 92
LARGE = (4000, 3000)
LARGE_QUALITY = 90


@functools.cache
def photo() -> bytes:
    """scikit-learn's `china.jpg`, cropped to 4:3 and saved at 500x375: 74 kB."""
    return _jpeg(_fitted(SIZE), QUALITY)


def large_photo(noise: float = 0.0) -> bytes:
    """The same photograph, enlarged to 12 megapixels, the size of a phone's: 1.4 MB.

    Args:
        noise: standard deviation of added sensor noise, in grey levels. An enlarged photograph has no noise, and so
            takes fewer bits than a camera's; with 4 it has 2.9 MB.
    """
    pixels = np.asarray(_fitted(LARGE)).astype(np.float32)
    pixels += np.random.default_rng(0).normal(0, noise, (*pixels.shape[:2], 1)).astype(np.float32)
    return _jpeg(Image.fromarray(np.clip(pixels.round(), 0, 255).astype(np.uint8)), LARGE_QUALITY)


def progressive_photo(size: tuple[int, int]) -> bytes:
    """The same photograph, enlarged and saved as a progressive JPEG. Decoding it takes memory for every coefficient."""
    buffer = io.BytesIO()
    _fitted(size).save(buffer, "JPEG", quality=QUALITY, progressive=True)
    return buffer.getvalue()


def white_png(size: tuple[int, int]) -> bytes:
    """A PNG without content, which takes as much memory as any of its size."""
    buffer = io.BytesIO()
    Image.new("RGB", size, "white").save(buffer, "PNG")
    return buffer.getvalue()


def _fitted(size: tuple[int, int]) -> Image.Image:
    from sklearn.datasets import load_sample_image  # takes more than a second

    return ImageOps.fit(Image.fromarray(load_sample_image("china.jpg")), size, Image.Resampling.LANCZOS)


def _jpeg(image: Image.Image, quality: int) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()
