"""Pictures of class activation maps, laid over the image that they explain."""

from __future__ import annotations

import io
from collections.abc import Iterator

import numpy as np
from PIL import Image

from service.runtime.images.decoding import load_pixels, open_image, shrink_on_load
from service.runtime.images.orientation import ORIENTATIONS
from service.runtime.images.resizing import Box, flatten_on_white

LONGEST = 1024  # side of a picture, in pixels: larger images are shrunk

# Orange speaks for the class, purple against it: people with any kind of colour blindness tell them apart.
FOR, AGAINST = (230, 97, 0), (94, 60, 153)
STRONGEST = 0.75  # opacity where a map is farthest from 0
OUTSIDE = 0.45  # brightness of what the network does not see


def picture_size(width: int, height: int) -> tuple[int, int]:
    """The width and height of the pictures of an image."""
    scale = min(1.0, LONGEST / max(width, height))
    return max(1, round(width * scale)), max(1, round(height * scale))


def overlays(
    data: bytes, maps: np.ndarray, box: Box, *, max_pixels: int, window: tuple[int, int] | None = None
) -> Iterator[bytes]:
    """A PNG for each map, in the colours of the whole upright image. Drawn one by one, so that drawing can be given up.

    Args:
        data: the image file.
        maps: float32 `(N, h, w)`. They share one scale.
        box: what of the upright image the maps cover, in its pixels.
        max_pixels, window: as for `decode`.

    Raises:
        As `decode`.
    """
    image, scale = _upright(data, max_pixels, window)
    size = image.size
    left, top, right, bottom = (side * scale for side in box)
    across, down = maps.shape[2] / (right - left), maps.shape[1] / (bottom - top)
    affine = (across, 0, -left * across, 0, down, -top * down)  # from places in the picture to places in the map
    seen = _mask(_stretched(np.ones(maps.shape[1:], np.float32), size, affine, Image.Resampling.NEAREST))
    base = Image.composite(image, image.point(lambda value: round(OUTSIDE * value)), seen)
    largest = float(np.abs(maps).max()) or 1.0
    for values in maps:
        opacity = _stretched(STRONGEST / largest * values, size, affine, Image.Resampling.BILINEAR)
        picture = base
        for colour, sign in ((FOR, 1), (AGAINST, -1)):
            picture = Image.composite(Image.new("RGB", size, colour), picture, _mask(sign * opacity))
        file = io.BytesIO()
        picture.save(file, "PNG")
        yield file.getvalue()


def _upright(data: bytes, max_pixels: int, window: tuple[int, int] | None) -> tuple[Image.Image, float]:
    """The whole image, upright, in RGB and at most `LONGEST` pixels long; and by what it was scaled."""
    opened = open_image(data, max_pixels)
    width, height = opened.image.size
    smaller = picture_size(width, height)
    shrink_on_load(opened, smaller)
    image = flatten_on_white(load_pixels(opened, window).resize(smaller, Image.Resampling.BOX))
    return ORIENTATIONS[opened.layout.orientation].turn_image(image), min(1.0, LONGEST / max(width, height))


def _stretched(
    values: np.ndarray, size: tuple[int, int], affine: tuple[float, ...], resampling: Image.Resampling
) -> np.ndarray:
    """A map at the size of the picture: float32 `(height, width)`, 0 where it does not reach."""
    stretched = Image.fromarray(values).transform(size, Image.Transform.AFFINE, affine, resampling)
    return np.asarray(stretched)


def _mask(opacity: np.ndarray) -> Image.Image:
    """Opacity from 0 to 1, as Pillow takes it; less than 0 is 0."""
    return Image.fromarray((255 * opacity.clip(0, 1)).round().astype(np.uint8))
