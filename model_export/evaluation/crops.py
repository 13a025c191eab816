"""The views of an image in 10-crop and multi-scale testing (section 3.4 of the paper).

The single centre crop is `service.runtime.images.decoding.decode`, the service's own.
"""

from __future__ import annotations

import numpy as np
from PIL import Image

from service.runtime.images.resizing import RESAMPLING, resized_size, to_array
from service.runtime.preprocessing import Interpolation, Preprocessing

PAPER_SIDES = (224, 256, 384, 480, 640)  # shorter sides in pixels, for nets trained on crops of 224
PAPER_CROP = 224


def ten_crops(image: Image.Image, preprocessing: Preprocessing) -> np.ndarray:
    """The four corners and the centre of the resized image, then their mirror images: uint8 (10, 3, crop, crop).

    Args:
        image: RGB, upright, whole.
    """
    p = preprocessing
    resized = _resize(image, p.resize, p.interpolation)  # (3, H, W)
    bottom, right = resized.shape[1] - p.height, resized.shape[2] - p.width
    centre = round(bottom / 2), round(right / 2)  # as in `service.runtime.images.resizing.view_of`
    corners = ((0, 0), (0, right), (bottom, 0), (bottom, right), centre)
    crops = np.stack([resized[:, top : top + p.height, left : left + p.width] for top, left in corners])
    return np.concatenate([crops, crops[..., ::-1]])


def shorter_sides(crop: int) -> tuple[int, ...]:
    """The shorter sides of multi-scale testing in pixels, in proportion to the crop the net was trained on."""
    return tuple(round(side * crop / PAPER_CROP) for side in PAPER_SIDES)


def resized_whole(image: Image.Image, side: int, interpolation: Interpolation) -> np.ndarray:
    """The whole image, its shorter side resized to `side` pixels, for a fully convolutional run: uint8 (1, 3, H, W).

    Args:
        image: RGB, upright, whole.
    """
    return _resize(image, side, interpolation)[None]


def _resize(image: Image.Image, side: int, interpolation: Interpolation) -> np.ndarray:
    return to_array(image.resize(resized_size(image.size, side), RESAMPLING[interpolation]))
