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
from service.errors import CorruptImage, EmptyImage, NotAnImage, TooManyPixels, TruncatedImage, UnsupportedImageFormat

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
    load(image, len(data))
    rgb = to_rgb(upright(image))
    return Decoded(resize_and_crop(rgb, preprocessing), *rgb.size)


def open_image(data: bytes, max_pixels: int) -> Image.Image:
    """Reads the header only. Raises as `decode` does."""
    if not data:
        raise EmptyImage()
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    except UnidentifiedImageError:
        raise _unidentified(data) from None
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        raise CorruptImage(reason=str(error)) from None
    width, height = image.size
    if width * height > max_pixels:
        raise TooManyPixels(width=width, height=height, max_pixels=max_pixels)
    return image


def load(image: Image.Image, received: int) -> None:
    """Decodes the pixels of an opened image of `received` bytes. Raises TruncatedImage or CorruptImage."""
    try:
        image.load()
    except MemoryError:
        raise
    except Exception as error:  # on damaged files a decoder may raise anything: OSError, struct.error, zlib.error, ...
        if isinstance(error, EOFError) or "truncated" in str(error):
            raise TruncatedImage(received=received) from None
        raise CorruptImage(reason=str(error) or type(error).__name__) from None


def upright(image: Image.Image) -> Image.Image:
    """The image turned as its EXIF orientation says; as it lies where that tag is missing or unreadable."""
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # as for `load`: metadata of any content. A viewer shows such a picture; so do we
        return image


def to_rgb(image: Image.Image) -> Image.Image:
    """Any mode that the allowed formats produce, as a person would see it on white paper."""
    if image.has_transparency_data:
        image = image.convert("RGBA")
        paper = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(paper, image).convert("RGB")
    if image.mode.startswith("I;16"):
        # Pillow's own conversion clips 16-bit grey at 255, which turns nearly all of it white.
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    return image.convert("RGB")


def resize_and_crop(image: Image.Image, preprocessing: Preprocessing) -> np.ndarray:
    """The shorter side of an RGB image to `resize`, the centre `crop` x `crop` of that: uint8 `(3, crop, crop)`.

    Only the pixels of the crop are computed: `box` is where it lies in the source, on the grid that resizing the whole
    image would use, so the result is that of resizing and then cropping.
    """
    p = preprocessing
    width, height = image.size
    short = min(width, height)
    resized_width = p.resize if width == short else int(p.resize * width / height)
    resized_height = p.resize if height == short else int(p.resize * height / width)
    left = round((resized_width - p.crop) / 2)
    top = round((resized_height - p.crop) / 2)
    scale_x, scale_y = width / resized_width, height / resized_height
    box = (left * scale_x, top * scale_y, (left + p.crop) * scale_x, (top + p.crop) * scale_y)
    cropped = image.resize((p.crop, p.crop), RESAMPLING[p.interpolation], box)
    return np.ascontiguousarray(np.asarray(cropped).transpose(2, 0, 1))


def _unidentified(data: bytes) -> NotAnImage | UnsupportedImageFormat:
    head = data[:64]
    for offset, signature, name in SIGNATURES:
        if head.startswith(signature, offset):
            return UnsupportedImageFormat(format=name, supported=", ".join(FORMATS))
    return NotAnImage()
