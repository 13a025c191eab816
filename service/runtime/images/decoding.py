"""Decodes an uploaded image into the network's input, with the same pixels as in training.

Uploads are hostile: formats are an allow-list, sizes are checked before any pixel is decoded, and every fault has its
own exception, which names the remedy.
"""

from __future__ import annotations

import io
import math
from contextlib import suppress
from typing import NamedTuple

import numpy as np
from PIL import Image, UnidentifiedImageError

from service.runtime.faults import (
    CorruptImage,
    EmptyImage,
    ImageFault,
    NotAnImage,
    TooManyPixels,
    TruncatedImage,
    UnsupportedImageFormat,
)
from service.runtime.images.formats import JPEG_END, PNG_SIGNATURE, describe_non_image, has_end, unsupported_format
from service.runtime.images.orientation import read_orientation
from service.runtime.images.png_chunks import strip_metadata
from service.runtime.images.resizing import crop_box, resize_to_array, to_rgb_or_rgba
from service.runtime.images.sixteen_bit import to_8_bits
from service.runtime.model_card import Preprocessing

# Pillow opens far more formats than a classification service should parse: most of its CVEs are in those decoders.
SUPPORTED_FORMATS = ("JPEG", "PNG", "WEBP")

# A scaled photograph keeps at least this many times the resized shorter side. At exactly 1 the antialiasing filter
# would have nothing left to do, and pixels would differ by up to 5 grey levels on average; from 1.17 on, by less
# than 2.
SHRINK_MARGIN = 1.2

# Pillow's own limit warns or raises inside `open`, and cannot be set per call. `open_image` checks the size in the
# header against its own limit, before any pixel is decoded.
Image.MAX_IMAGE_PIXELS = None


class Decoded(NamedTuple):
    """One image, ready for a batch."""

    pixels: np.ndarray  # uint8 (3, crop, crop), RGB
    width: int  # of the whole image, upright, in pixels
    height: int


def decode(data: bytes, preprocessing: Preprocessing, *, max_pixels: int, scaled: bool = True) -> Decoded:
    """Decodes an upload, turns it upright, resizes its shorter side and cuts out the centre.

    Greyscale, 16-bit, palette, CMYK and transparent images come out as RGB (transparency over white), animations as
    their first frame.

    The resize is Pillow's antialiased filter on the grid of torchvision's `Resize` followed by `CenterCrop`: the
    pixels are those of training.

    Args:
        scaled: lets the JPEG decoder shrink a large photograph to a half, a quarter or an eighth, never below
            `SHRINK_MARGIN` times `resize`. This takes a fraction of the time; pixels differ a little.

    Raises:
        EmptyImage, UnsupportedImageFormat, NotAnImage, TooManyPixels, TruncatedImage, CorruptImage: see `faults`.
    """
    image = open_image(data, max_pixels)
    size = image.size
    divisor = shrink_on_load(image, math.ceil(SHRINK_MARGIN * preprocessing.resize)) if scaled else 1
    image = load_pixels(image, data)
    orientation = read_orientation(image)
    upright_size = orientation.upright_size(size)
    # Crops the stored image first and turns only the crop, which is small.
    left, top, right, bottom = orientation.stored_box(crop_box(upright_size, preprocessing), size)
    box = (left / divisor, top / divisor, right / divisor, bottom / divisor)
    pixels = resize_to_array(to_rgb_or_rgba(image), box, preprocessing)
    return Decoded(orientation.turn_pixels(pixels), *upright_size)


def open_image(data: bytes, max_pixels: int) -> Image.Image:
    """Opens an image, reading its header only. Raises as `decode` does."""
    if not data:
        raise EmptyImage()
    try:
        try:
            image = Image.open(io.BytesIO(data), formats=SUPPORTED_FORMATS)
        except Exception:
            if not data.startswith(PNG_SIGNATURE):
                raise
            image = Image.open(io.BytesIO(strip_metadata(data)), formats=SUPPORTED_FORMATS)
    except UnidentifiedImageError:
        raise _identification_fault(data) from None
    except Exception as error:  # a decoder may raise anything on a damaged header
        raise _decoding_fault(error, data) from None
    width, height = image.size
    if width * height > max_pixels:
        raise TooManyPixels(width=width, height=height, max_pixels=max_pixels)
    return image


def shrink_on_load(image: Image.Image, side: int) -> int:
    """Makes an opened JPEG load at 1/8, 1/4 or 1/2 of its size: the smallest whose sides have `side` pixels or more.

    The decoder skips the frequencies that the resize would discard (libjpeg's scaled inverse DCT). Images of other
    formats load at full size.

    Returns:
        The divisor of both sides: 1, 2, 4 or 8. Divide coordinates by it to get those of the loaded image.
    """
    width = image.width
    drafted = image.draft(None, (side, side))
    return 1 if drafted is None else round(width / drafted[1][2])


def load_pixels(image: Image.Image, data: bytes) -> Image.Image:
    """Decodes the pixels of an opened image; 16 bits are scaled to 8.

    Returns:
        The same image, or another one opened from the same file if a fault in the file affects no pixel.

    Raises:
        UnsupportedImageFormat, TruncatedImage, CorruptImage
    """
    try:
        image.load()
    except MemoryError:
        raise
    except Exception as error:  # a decoder may raise anything on damaged data: OSError, struct.error, zlib.error, ...
        with suppress(Exception):
            if image.format == "PNG" and (stripped := strip_metadata(data)) != data:
                return load_pixels(Image.open(io.BytesIO(stripped), formats=("PNG",)), stripped)
            if (complete := _load_jpeg_without_end(image, data)) is not None:
                return complete
        raise _decoding_fault(error, data) from None
    return to_8_bits(image, data)


def _load_jpeg_without_end(image: Image.Image, data: bytes) -> Image.Image | None:
    """Loads a JPEG that lacks only its end marker, at the size that `image` was to load at; None for any other file.

    Decodes the file twice: with the end marker appended, and with other bytes before that. The decoder skips those
    bytes if the picture is complete, and takes them for pixels if some are missing.
    """
    if image.format != "JPEG" or data.endswith(JPEG_END):
        return None
    loaded = []
    for ending in (JPEG_END, b"\xa5\x3c" * 32 + JPEG_END):  # not zeros: the decoder itself fills gaps with them
        again = Image.open(io.BytesIO(data.removesuffix(JPEG_END[:1]) + ending), formats=("JPEG",))
        again.draft(None, image.size)
        again.load()
        loaded.append(again)
    plain, padded = loaded
    return plain if plain.tobytes() == padded.tobytes() else None


def _identification_fault(data: bytes) -> ImageFault:
    """The fault of a file whose format Pillow does not recognise."""
    if has_end(data) is not None:  # starts like a supported format, so its header is at fault
        return _decoding_fault(None, data)
    if name := unsupported_format(data):
        return UnsupportedImageFormat(format=name, supported=", ".join(SUPPORTED_FORMATS))
    return NotAnImage(found=describe_non_image(data))


def _decoding_fault(error: Exception | None, data: bytes) -> UnsupportedImageFormat | TruncatedImage | CorruptImage:
    """The fault of a file that a decoder has given up on."""
    if name := unsupported_format(data):
        return UnsupportedImageFormat(format=name, supported=", ".join(SUPPORTED_FORMATS))
    if has_end(data) is False:
        return TruncatedImage(received=len(data))
    return CorruptImage(reason=str(error) if error else "its header is damaged")
