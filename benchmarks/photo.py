"""The picture of the benchmarks: a real photograph, 500x375, as a camera's JPEG."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image, ImageOps
from sklearn.datasets import load_sample_image

SIZE = (500, 375)
QUALITY = 92
LARGE = (4000, 3000)


def photo() -> bytes:
    """scikit-learn's `china.jpg`, cut to 4:3 and saved at 500x375: about 64 kB."""
    return _jpeg(_fitted(SIZE), QUALITY)


def large_photo(noise: float = 0.0) -> bytes:
    """The same enlarged to 12 megapixels, as phones make them: 1.4 MB.

    Args:
        noise: standard deviation of a sensor's noise, in grey levels. An enlarged picture has none, and so fewer bits
            to decode than a camera's; with 4 it has 2.7 MB.
    """
    pixels = np.asarray(_fitted(LARGE)).astype(np.float32)
    pixels += np.random.default_rng(0).normal(0, noise, (*pixels.shape[:2], 1)).astype(np.float32)
    return _jpeg(Image.fromarray(np.clip(pixels.round(), 0, 255).astype(np.uint8)), 90)


def _fitted(size: tuple[int, int]) -> Image.Image:
    return ImageOps.fit(Image.fromarray(load_sample_image("china.jpg")), size, Image.Resampling.LANCZOS)


def _jpeg(image: Image.Image, quality: int) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()
