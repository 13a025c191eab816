"""Pictures for tests of decoding, resizing and their parts, and the pixels that decoding makes of them."""

from __future__ import annotations

import functools
import io

import numpy as np
import pytest
from PIL import Image

from service.runtime.images.decoding import decode
from service.runtime.preprocessing import Preprocessing

STANDARD = Preprocessing()
WHOLE = Preprocessing(resize=32, crop=32)
RED = Image.new("RGB", (64, 64), "red")


def encode(image: Image.Image, file_format: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


@functools.cache
def photograph(width: int, height: int) -> Image.Image:
    """A picture with smooth and detailed parts and no symmetry."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:height, :width]
    base = np.stack([x * 255 / width, y * 255 / height, (x * y) % 256], axis=2)
    return Image.fromarray(np.clip(base + rng.normal(0, 12, base.shape), 0, 255).astype(np.uint8))


@functools.cache
def real_photograph(width: int, height: int) -> Image.Image:
    """The two photographs of scikit-learn, side by side and mirrored until they fill this size."""
    datasets = pytest.importorskip("sklearn.datasets", reason="scikit-learn carries the photographs")
    china, flower = datasets.load_sample_images().images
    tile = np.concatenate([china, flower], axis=1)
    tile = np.concatenate([tile, tile[::-1, ::-1]])
    rows, columns = (-(-side // tile.shape[axis]) for axis, side in enumerate((height, width)))
    return Image.fromarray(np.tile(tile, (rows, columns, 1))[:height, :width])


def jpeg_with_orientation(image: Image.Image, orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encode(image, "JPEG", exif=exif, quality=92)


def corner(data: bytes) -> tuple[int, ...]:
    """The colour of the top left pixel after decoding."""
    return tuple(decode(data, WHOLE, max_pixels=10_000).pixels[:, 0, 0].tolist())


def pixels(data: bytes) -> np.ndarray:
    """The pixels after decoding with the standard preprocessing: uint8 (3, 224, 224)."""
    return decode(data, STANDARD, max_pixels=10_000_000).pixels


def reference(image: Image.Image, preprocessing: Preprocessing) -> np.ndarray:
    """torchvision's `Resize` and `CenterCrop` written out: resize the whole image, then crop."""
    width, height = image.size
    short = min(width, height)
    size = tuple(
        preprocessing.resize if side == short else int(preprocessing.resize * side / short) for side in image.size
    )
    resized = image.resize(size, Image.Resampling.BILINEAR)
    left, top = (round((side - preprocessing.crop) / 2.0) for side in size)
    cut = resized.crop((left, top, left + preprocessing.crop, top + preprocessing.crop))
    return np.asarray(cut).transpose(2, 0, 1)
