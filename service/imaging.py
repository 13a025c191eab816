"""From the bytes of an upload to the network's input, with the pixels of training.

Uploads are hostile: formats are an allow-list, sizes are checked before any pixel is decoded, and every fault is a
problem of its own that names the remedy.
"""

from __future__ import annotations

import io
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from service.card import Interpolation, Preprocessing
from service.errors import (
    CorruptImage,
    EmptyImage,
    ImageProblem,
    NotAnImage,
    TooManyPixels,
    TruncatedImage,
    UnsupportedImageFormat,
)

# Pillow opens far more formats than a classification service should parse (most of its CVEs are in those decoders).
FORMATS = ("JPEG", "PNG", "WEBP")

# How files of other formats begin, to tell "not supported" from "not an image" (file signatures as in their
# specifications). (offset, bytes, name)
SIGNATURES = (
    (0, b"GIF8", "GIF"),
    (0, b"BM", "BMP"),
    (0, b"II*\0", "TIFF"),
    (0, b"MM\0*", "TIFF"),
    (4, b"ftypavif", "AVIF"),
    (4, b"ftyphei", "HEIC"),
    (4, b"ftypmif1", "HEIF"),
    (0, b"\0\0\0\x0cjP  ", "JPEG 2000"),
    (0, b"\0\0\x01\0", "ICO"),
    (0, b"8BPS", "PSD"),
    (0, b"<svg", "SVG"),
    (0, b"%PDF", "PDF"),
)

RESAMPLING: dict[Interpolation, Image.Resampling] = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}

# Pillow's own limit warns or raises inside `open`, at a size that cannot be set per call. `decode` checks the size
# from the header, before any pixel is decoded, against the limit it is given.
Image.MAX_IMAGE_PIXELS = None


class Decoded(NamedTuple):
    """One image, ready for a batch."""

    pixels: np.ndarray  # uint8 (3, crop, crop), RGB
    width: int  # of the whole image, upright, in pixels
    height: int


def decode(data: bytes, preprocessing: Preprocessing, *, max_pixels: int) -> Decoded:
    """Decodes an upload, turns it upright, resizes its shorter side and cuts out the centre.

    Greyscale, 16-bit, palette, CMYK and transparent images come out as RGB (transparency over white), animations as
    their first frame. The resize is Pillow's antialiased filter on the grid of torchvision's `Resize` followed by
    `CenterCrop`, so serving's pixels are those of training.

    Raises:
        EmptyImage, UnsupportedImageFormat, NotAnImage, TooManyPixels, TruncatedImage, CorruptImage: see `errors`.
    """
    image = open_image(data, max_pixels)
    load(image, data)
    turn_upright(image)
    # Transparency is laid on white after the resize, which makes a picture of any size small. The result is the same:
    # Pillow resizes premultiplied colours.
    cropped = resize_and_crop(to_rgb_or_rgba(image), preprocessing)
    return Decoded(to_array(on_white(cropped)), *image.size)


def open_image(data: bytes, max_pixels: int) -> Image.Image:
    """Reads the header only. Raises as `decode` does."""
    if not data:
        raise EmptyImage()
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    except UnidentifiedImageError:
        raise _unidentified(data) from None
    except Exception as error:  # a decoder may raise anything on a damaged header
        raise _damage(error, data) from None
    width, height = image.size
    if width * height > max_pixels:
        raise TooManyPixels(width=width, height=height, max_pixels=max_pixels)
    return image


def load(image: Image.Image, data: bytes) -> None:
    """Decodes the pixels of an opened image. Raises TruncatedImage or CorruptImage."""
    try:
        image.load()
    except MemoryError:
        raise
    except Exception as error:  # on damaged files a decoder may raise anything: OSError, struct.error, zlib.error, ...
        raise _damage(error, data) from None


def turn_upright(image: Image.Image) -> None:
    """Turns the image, in place, as its EXIF orientation says; where that is missing or unreadable it stays."""
    try:
        ImageOps.exif_transpose(image, in_place=True)
    except Exception:  # as for `load`: metadata of any content. A viewer shows such a picture; so do we
        return


def to_rgb_or_rgba(image: Image.Image) -> Image.Image:
    """Any mode that the allowed formats produce, in 8 bits; RGBA where something is transparent."""
    if image.mode.startswith("I;16"):
        # Pillow's own conversion clips 16-bit grey at 255, which turns nearly all of it white.
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
    return image.convert("RGBA" if image.has_transparency_data else "RGB")


def on_white(image: Image.Image) -> Image.Image:
    """RGB as it is; RGBA as it looks on white paper."""
    if image.mode == "RGB":
        return image
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")


def to_array(image: Image.Image) -> np.ndarray:
    """RGB as uint8 `(3, height, width)`."""
    return np.ascontiguousarray(np.asarray(image).transpose(2, 0, 1))


def resized_size(image: Image.Image, shorter_side: int) -> tuple[int, int]:
    """Width and height once the shorter side is resized: torchvision's `Resize` rounds the longer one down."""
    short = min(image.size)
    width, height = (shorter_side if side == short else int(shorter_side * side / short) for side in image.size)
    return width, height


def resize_and_crop(image: Image.Image, preprocessing: Preprocessing) -> Image.Image:
    """The shorter side of an image to `resize`, the centre `crop` x `crop` of that.

    Only the pixels of the crop are computed: `box` is where it lies in the source, on the grid that resizing the whole
    image would use, so the result is that of resizing and then cropping.
    """
    p = preprocessing
    width, height = image.size
    resized_width, resized_height = resized_size(image, p.resize)
    left = round((resized_width - p.crop) / 2)
    top = round((resized_height - p.crop) / 2)
    scale_x, scale_y = width / resized_width, height / resized_height
    box = (left * scale_x, top * scale_y, (left + p.crop) * scale_x, (top + p.crop) * scale_y)
    return image.resize((p.crop, p.crop), RESAMPLING[p.interpolation], box)


def _unidentified(data: bytes) -> ImageProblem:
    if _ends(data) is not None:  # begins like a supported format: only its rest can be at fault
        return _damage(None, data)
    head = data[:64]
    for offset, signature, name in SIGNATURES:
        if head.startswith(signature, offset):
            return UnsupportedImageFormat(format=name, supported=", ".join(FORMATS))
    return NotAnImage()


def _damage(error: Exception | None, data: bytes) -> TruncatedImage | CorruptImage:
    """What is wrong with a file that a decoder has given up."""
    if _ends(data) is False:
        return TruncatedImage(received=len(data))
    return CorruptImage(reason=str(error) if error else "its header is damaged")


def _ends(data: bytes) -> bool | None:
    """Whether a JPEG, PNG or WebP has its end; None for anything else."""
    if data.startswith(b"\xff\xd8\xff"):
        return b"\xff\xd9" in data[-1024:]  # the EOI marker; some cameras write a little behind it
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return b"IEND" in data[-1024:]
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return len(data) >= 8 + int.from_bytes(data[4:8], "little")
    return None
