"""Decodes an uploaded image into the network's input, with the same pixels as in training.

Uploads are hostile: formats are an allow-list, sizes are checked before any pixel is decoded, and every fault has its
own exception, which names the remedy.
"""

from __future__ import annotations

import io
from contextlib import suppress
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageChops, UnidentifiedImageError
from PIL import WebPImagePlugin as _  # noqa: F401 (see below)

from service.runtime.images.formats import JPEG_END, SUPPORTED_FORMATS
from service.runtime.images.headers import Header, decoding_fault, read_layout, shrink_divisor, smallest_size
from service.runtime.images.layout import Layout
from service.runtime.images.orientation import ORIENTATIONS
from service.runtime.images.resizing import complete, resize_to_array, to_rgb_or_rgba, view_of
from service.runtime.images.sixteen_bit import to_8_bits
from service.runtime.preprocessing import Preprocessing

# Pillow's own limit warns or raises inside `open`, and cannot be set per call. `open_image` checks the size in the
# header against its own limit, before Pillow sees the file.
Image.MAX_IMAGE_PIXELS = None

# Loads Pillow's decoders now; that of WebP by the import above. `Image.open` would do so for the first image of a
# format, and its client would wait.
Image.preinit()


class Decoded(NamedTuple):
    """One image, ready for a batch."""

    pixels: np.ndarray  # uint8 (channels, height, width) of the network's input; RGB if there are three
    width: int  # of the whole image, upright, in pixels
    height: int


class OpenImage(NamedTuple):
    """An image whose header has been read, and no pixel."""

    image: Image.Image
    layout: Layout
    upload: bytes
    data: bytes  # the upload without its metadata


def decode(
    data: bytes, preprocessing: Preprocessing, *, max_pixels: int, scaled: bool = True, header: Header | None = None
) -> Decoded:
    """Decodes an upload, turns it upright and gives it the size of the network's input.

    Greyscale, 16-bit, palette, CMYK and transparent images come out as RGB (transparency over white), animations as
    their first frame.

    The resize is Pillow's antialiased filter, for the fit `crop` on the grid of torchvision's `Resize` followed by
    `CenterCrop`: the pixels are those of training.

    Args:
        max_pixels: the most pixels of a JPEG or PNG; a WebP may have a quarter of them (see `headers`).
        scaled: lets the JPEG decoder shrink a large photograph to a half, a quarter or an eighth, never below
            `SHRINK_MARGIN` times what it is resized to. This takes a fraction of the time; pixels differ a little.
        header: what `read_header` returned for the same arguments, if it has been called: the file is not walked again.

    Raises:
        EmptyImage, UnsupportedImageFormat, NotAnImage, TooManyPixels, TooComplexImage, TruncatedImage, CorruptImage:
            see `faults`.
    """
    opened = _open(data, header.layout if header else read_layout(data, max_pixels))
    size = opened.image.size
    divisor = shrink_on_load(opened, smallest_size(opened.layout, preprocessing)) if scaled else 1
    image = load_pixels(opened, preprocessing.window)
    orientation = ORIENTATIONS[opened.layout.orientation]
    upright_size = orientation.upright_size(size)
    view = view_of(upright_size, preprocessing)
    # Crops the stored image first and turns only the crop, which is small.
    left, top, right, bottom = orientation.stored_box(view.box, size)
    box = (left / divisor, top / divisor, right / divisor, bottom / divisor)
    pixels = resize_to_array(image, box, orientation.upright_size(view.size), preprocessing.interpolation)
    return Decoded(complete(orientation.turn_pixels(pixels), view, preprocessing), *upright_size)


def open_image(data: bytes, max_pixels: int) -> OpenImage:
    """Opens an image, reading its header only. Raises as `decode` does."""
    return _open(data, read_layout(data, max_pixels))


def _open(data: bytes, layout: Layout) -> OpenImage:
    """Opens an image that has been walked.

    Pillow gets the file without its metadata: it is slow on hostile metadata, and refuses pictures for damage in it.
    """
    stripped = layout.stripped(data)
    try:
        image = Image.open(io.BytesIO(stripped), formats=SUPPORTED_FORMATS)
    except MemoryError:
        raise
    except UnidentifiedImageError:
        raise decoding_fault(None, data) from None
    except Exception as error:  # a decoder may raise anything on a damaged header
        raise decoding_fault(error, data) from None
    return OpenImage(image, layout, data, stripped)


def shrink_on_load(opened: OpenImage, smallest: tuple[int, int]) -> int:
    """Makes a JPEG load at 1/8, 1/4 or 1/2 of its size: the smallest that is not below this width and height.

    The decoder skips the frequencies that the resize would discard (libjpeg's scaled inverse DCT). Images of other
    formats load at full size.

    Returns:
        The divisor of both sides: 1, 2, 4 or 8. Divide coordinates by it to get those of the loaded image.
    """
    opened.image.draft(None, smallest)
    return shrink_divisor(opened.layout, smallest)


def load_pixels(opened: OpenImage, window: tuple[int, int] | None = None) -> Image.Image:
    """Decodes the pixels of an opened image: 8-bit RGB, or RGBA if it has transparency. 16 bits are scaled to 8.

    Args:
        window: as in `Preprocessing`.

    Raises:
        TruncatedImage, CorruptImage
    """
    image, layout, upload, data = opened
    try:
        image.load()
        return to_rgb_or_rgba(to_8_bits(image, data, window))
    except MemoryError:
        raise
    except Exception as error:  # Pillow may raise anything on damaged data: OSError, struct.error, AssertionError, ...
        fault = decoding_fault(error, upload)
    # Out here, where no traceback holds the pixels of `image` any more.
    if layout.lacks_end:
        with suppress(Exception):
            return to_rgb_or_rgba(_load_jpeg_without_end(image, data))
    raise fault


def _load_jpeg_without_end(image: Image.Image, data: bytes) -> Image.Image:
    """Loads a JPEG that lacks only its end marker, at the size that `image` was to load at; closes `image`.

    Decodes the file twice: with the end marker appended, and with other bytes before that. The decoder skips those
    bytes if the picture is complete, and takes them for pixels if some are missing.

    Raises:
        ValueError: pixels are missing.
    """
    size = image.size
    image.close()  # frees its pixels
    loaded = []
    for ending in (JPEG_END, b"\xa5\x3c" * 32 + JPEG_END):  # not zeros: the decoder itself fills gaps with them
        again = Image.open(io.BytesIO(data.removesuffix(JPEG_END[:1]) + ending), formats=("JPEG",))
        again.draft(None, size)
        again.load()
        loaded.append(again)
    plain, padded = loaded
    if ImageChops.difference(plain, padded).getbbox() is not None:
        raise ValueError("pixels are missing")
    return plain
