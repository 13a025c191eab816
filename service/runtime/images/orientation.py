"""EXIF orientation: turns an image the way a viewer shows it."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from PIL import Image

from service.runtime.images.resizing import Box


class Orientation(NamedTuple):
    """How a viewer turns the stored image: it mirrors it, then swaps its axes."""

    mirrors_x: bool
    mirrors_y: bool
    swaps_axes: bool
    transpose: Image.Transpose | None  # Pillow's name for all three together

    def upright_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """Width and height of the turned image, from those of the stored one."""
        return size[::-1] if self.swaps_axes else size

    def stored_box(self, box: Box, size: tuple[int, int]) -> Box:
        """Maps a box of the turned image to the stored image, whose width and height are `size`."""
        left, top, right, bottom = box
        width, height = size
        if self.swaps_axes:
            left, top, right, bottom = top, left, bottom, right
        if self.mirrors_x:
            left, right = width - right, width - left
        if self.mirrors_y:
            top, bottom = height - bottom, height - top
        return left, top, right, bottom

    def turn_image(self, image: Image.Image) -> Image.Image:
        """Turns a stored image upright."""
        return image if self.transpose is None else image.transpose(self.transpose)

    def turn_pixels(self, pixels: np.ndarray) -> np.ndarray:
        """Turns stored pixels upright: uint8 (3, height, width), contiguous in the result."""
        if self.mirrors_x:
            pixels = pixels[:, :, ::-1]
        if self.mirrors_y:
            pixels = pixels[:, ::-1]
        if self.swaps_axes:
            pixels = pixels.transpose(0, 2, 1)
        return np.ascontiguousarray(pixels)


UPRIGHT = Orientation(False, False, False, None)

# Values of the EXIF tag Orientation (Exif 3.0, tag 0x0112).
ORIENTATIONS = {
    1: UPRIGHT,
    2: Orientation(True, False, False, Image.Transpose.FLIP_LEFT_RIGHT),
    3: Orientation(True, True, False, Image.Transpose.ROTATE_180),
    4: Orientation(False, True, False, Image.Transpose.FLIP_TOP_BOTTOM),
    5: Orientation(False, False, True, Image.Transpose.TRANSPOSE),
    6: Orientation(False, True, True, Image.Transpose.ROTATE_270),
    7: Orientation(True, True, True, Image.Transpose.TRANSVERSE),
    8: Orientation(True, False, True, Image.Transpose.ROTATE_90),
}
