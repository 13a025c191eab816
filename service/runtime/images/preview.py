"""What the network sees of an image, for people: the crop as a PNG, and the way that the file was decoded."""

from __future__ import annotations

import io
from typing import NamedTuple

import numpy as np
from PIL import Image

from service.runtime.images.decoding import open_image
from service.runtime.images.headers import shrink_divisor, smallest_size
from service.runtime.images.sixteen_bit import BIT_DEPTH_OFFSET
from service.runtime.preprocessing import Preprocessing


class DecodePath(NamedTuple):
    """How an image file becomes pixels.

    Attributes:
        format: JPEG, PNG or WEBP.
        width, height: as stored, in pixels: before the image is turned upright.
        mode: Pillow's name for the channels, such as RGB, L (grey), P (palette), CMYK.
        bits: of each sample, as stored; those of a palette's indices.
        transparency: whether it is laid over white.
        orientation: the value of the EXIF tag: 1 is not turned.
        passes: how often the decoder visits every pixel; above 1 for a JPEG of several scans.
        divisor: by what the decoder divides both sides of a JPEG, before the resize.
        lacks_end: whether a JPEG has no end marker after its pixels.
    """

    format: str
    width: int
    height: int
    mode: str
    bits: int
    transparency: bool
    orientation: int
    passes: int
    divisor: int
    lacks_end: bool


def decode_path(data: bytes, preprocessing: Preprocessing, *, max_pixels: int, scaled: bool = True) -> DecodePath:
    """How `decode` decodes this file, given the same arguments. Reads its header only. Raises as `open_image` does."""
    opened = open_image(data, max_pixels)
    image, layout = opened.image, opened.layout
    return DecodePath(
        format=layout.format,
        width=layout.width,
        height=layout.height,
        mode=image.mode,
        bits=opened.data[BIT_DEPTH_OFFSET] if layout.format == "PNG" else 8,
        transparency=image.has_transparency_data,
        orientation=layout.orientation,
        passes=layout.passes,
        divisor=shrink_divisor(layout, smallest_size(layout, preprocessing)) if scaled else 1,
        lacks_end=layout.lacks_end,
    )


def to_png(pixels: np.ndarray) -> bytes:
    """A PNG of exactly these pixels: uint8 (3, height, width), RGB, or (1, height, width), grey."""
    image = Image.fromarray(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0))
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()
