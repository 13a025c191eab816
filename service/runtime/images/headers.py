"""What an image costs, read from its header before anything is decoded, and held to limits.

The limits bound the time of a decode. The worst files found that pass them, at 64 million pixels and 20 MB, take two to
five seconds of a core, roughly: a progressive JPEG at the limit of passes about two, noise in JPEG, PNG or WebP up to
five. A decode that has begun is not stopped.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from service.runtime.faults import (
    CorruptImage,
    EmptyImage,
    ImageFault,
    NotAnImage,
    TooComplexImage,
    TooManyPixels,
    TruncatedImage,
)
from service.runtime.images.formats import (
    JPEG_SIGNATURE,
    PNG_SIGNATURE,
    describe_non_image,
    has_end,
    has_image_signature,
    unsupported,
    unsupported_format,
)
from service.runtime.images.jpeg_markers import read_jpeg
from service.runtime.images.layout import Layout
from service.runtime.images.orientation import ORIENTATIONS
from service.runtime.images.png_chunks import read_png
from service.runtime.images.resizing import view_of
from service.runtime.images.webp_chunks import read_webp
from service.runtime.preprocessing import Preprocessing

# A scaled photograph keeps this many times the size that it is resized to, at least. At exactly 1 the antialiasing
# filter would have nothing left to do, and pixels would differ by up to 5 grey levels on average; from 1.17 on, by less
# than 2.
SHRINK_MARGIN = 1.2

# A WebP may have `max_pixels` divided by this. Each of its pixels takes four times the memory of a JPEG's or PNG's, it
# cannot be loaded at a smaller scale, and Pillow copies the whole canvas while it holds the GIL.
WEBP_DIVISOR = 4

# A JPEG may be decoded in as many passes over `max_pixels`. Real files have about ten scans, and at most twenty.
MAX_PASSES = 32

FIXED_BYTES = 5 * 2**20  # buffers of the decoder, tables of the resize


class Header(NamedTuple):
    """What the header of an image says, and what decoding it will take.

    Attributes:
        width, height: of the stored image, in pixels.
        decode_bytes: the most memory that `decode` takes at a time, beside the upload itself. An estimate from above.
        layout: what `decode` needs in order not to walk the file again.
    """

    format: str
    width: int
    height: int
    decode_bytes: int
    layout: Layout


def read_header(data: bytes, preprocessing: Preprocessing, *, max_pixels: int, scaled: bool = True) -> Header:
    """Reads the header of an upload and checks it as `decode` does, given the arguments of `decode`.

    Takes one step in Python for each segment or chunk, some microseconds for a photograph. A progressive JPEG is
    searched for its scans, which takes about half a millisecond per megabyte.

    Raises:
        EmptyImage, UnsupportedImageFormat, NotAnImage, TooManyPixels, TooComplexImage, TruncatedImage, CorruptImage:
            see `faults`. Images that pass can still turn out truncated or damaged when they are decoded.
    """
    layout = read_layout(data, max_pixels)
    divisor = shrink_divisor(layout, smallest_size(layout, preprocessing)) if scaled else 1
    loaded = math.ceil(layout.width / divisor) * math.ceil(layout.height / divisor)
    decode_bytes = FIXED_BYTES + (layout.fixed_bytes + loaded * layout.pixel_bytes) * 17 // 16  # allocators round up
    return Header(layout.format, layout.width, layout.height, decode_bytes, layout)


def read_layout(data: bytes, max_pixels: int) -> Layout:
    """Walks a file and checks it against the limits. Raises as `read_header` does."""
    if not has_image_signature(data):
        raise _other_file(data)
    if data.startswith(JPEG_SIGNATURE):
        layout = read_jpeg(data)
    elif data.startswith(PNG_SIGNATURE):
        layout = read_png(data)
    else:
        layout = read_webp(data)
        max_pixels //= WEBP_DIVISOR
    if layout is None:
        raise decoding_fault(None, data)
    width, height = layout.width, layout.height
    if width * height > max_pixels:
        raise TooManyPixels(width=width, height=height, format=layout.format, max_pixels=max_pixels)
    if layout.passes * width * height > MAX_PASSES * max_pixels:
        raise TooComplexImage(
            found=layout.passes, parts="passes over all pixels", most=MAX_PASSES * max_pixels // (width * height)
        )
    return layout


def smallest_size(layout: Layout, preprocessing: Preprocessing) -> tuple[int, int]:
    """Width and height in pixels, as stored, that a scaled image keeps at least."""
    if preprocessing.fit == "crop":
        side = math.ceil(SHRINK_MARGIN * preprocessing.resize)
        return side, side
    orientation = ORIENTATIONS[layout.orientation]
    stored = layout.width, layout.height
    width, height = orientation.upright_size(view_of(orientation.upright_size(stored), preprocessing).size)
    return math.ceil(SHRINK_MARGIN * width), math.ceil(SHRINK_MARGIN * height)


def shrink_divisor(layout: Layout, smallest: tuple[int, int]) -> int:
    """By what the decoder divides both sides of a JPEG, which do not get below these two; 1 for other formats."""
    if layout.format != "JPEG":
        return 1
    times = min(layout.width // smallest[0], layout.height // smallest[1])
    return next(divisor for divisor in (8, 4, 2, 1) if divisor == 1 or times >= divisor)


def decoding_fault(error: Exception | None, data: bytes) -> TruncatedImage | CorruptImage:
    """The fault of an image that a decoder has given up on."""
    if has_end(data) is False:
        return TruncatedImage(received=len(data))
    return CorruptImage(reason=str(error or "") or "its header is damaged")


def _other_file(data: bytes) -> ImageFault:
    """The fault of a file that starts like no supported image."""
    if not data:
        return EmptyImage()
    if name := unsupported_format(data):
        return unsupported(name)
    return NotAnImage(found=describe_non_image(data))
