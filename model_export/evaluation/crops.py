"""The views of an image that testing averages over (section 3.4 of the paper).

The single centre crop is `service.imaging.decode`: what is measured with it is what is served.
"""

from __future__ import annotations

import numpy as np
from PIL import Image

from service.card import Interpolation, Preprocessing
from service.imaging import RESAMPLING, resized_size, to_array

SCALES = (224, 256, 384, 480, 640)  # of the shorter side, in pixels, for nets trained on crops of 224
SCALES_FOR = 224


def ten_crops(image: Image.Image, preprocessing: Preprocessing) -> np.ndarray:
    """Four corners and the centre of the resized image, then the mirror images of these: uint8 (10, 3, crop, crop).

    Args:
        image: RGB, upright, whole.
    """
    p = preprocessing
    resized = _resized(image, p.resize, p.interpolation)  # (3, H, W)
    bottom, right = resized.shape[1] - p.crop, resized.shape[2] - p.crop
    centre = round(bottom / 2), round(right / 2)  # as in `service.imaging.resize_and_crop`
    corners = ((0, 0), (0, right), (bottom, 0), (bottom, right), centre)
    crops = np.stack([resized[:, top : top + p.crop, left : left + p.crop] for top, left in corners])
    return np.concatenate([crops, crops[..., ::-1]])


def scales(crop: int) -> tuple[int, ...]:
    """The shorter sides of multi-scale testing, in pixels, in proportion to the crop that a net was trained on."""
    return tuple(round(scale * crop / SCALES_FOR) for scale in SCALES)


def whole(image: Image.Image, side: int, interpolation: Interpolation) -> np.ndarray:
    """The whole image with its shorter side at `side` pixels, for a net run fully convolutionally: uint8 (1, 3, H, W).

    Args:
        image: RGB, upright, whole.
    """
    return _resized(image, side, interpolation)[None]


def _resized(image: Image.Image, side: int, interpolation: Interpolation) -> np.ndarray:
    return to_array(image.resize(resized_size(image.size, side), RESAMPLING[interpolation]))
