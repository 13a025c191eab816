"""Resize and centre crop, with the same pixels in training and in serving."""

from __future__ import annotations

import numpy as np
from PIL import Image

from service.runtime.model_card import Interpolation, Preprocessing

try:
    from service.runtime.images._resample import axis, resample
except ImportError:  # installed without a C compiler: Pillow computes the same pixels more slowly
    axis = resample = None  # type: ignore[assignment]
COMPILED = resample is not None

RESAMPLING: dict[Interpolation, Image.Resampling] = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}

Box = tuple[float, float, float, float]  # left, top, right, bottom, in pixels of the source


def resized_size(size: tuple[int, int], shorter_side: int) -> tuple[int, int]:
    """Width and height after resizing the shorter side. torchvision's `Resize` rounds the longer side down."""
    short = min(size)
    width, height = (shorter_side if side == short else int(shorter_side * side / short) for side in size)
    return width, height


def crop_box(size: tuple[int, int], preprocessing: Preprocessing) -> Box:
    """The box that resizing and centre-cropping keep of an image of this width and height."""
    crop = preprocessing.crop
    width, height = size
    resized_width, resized_height = resized_size(size, preprocessing.resize)
    left = round((resized_width - crop) / 2)
    top = round((resized_height - crop) / 2)
    scale_x, scale_y = width / resized_width, height / resized_height
    return left * scale_x, top * scale_y, (left + crop) * scale_x, (top + crop) * scale_y


def resize_and_crop(image: Image.Image, preprocessing: Preprocessing) -> Image.Image:
    """Resizes the shorter side of an image to `resize` and cuts out the centre, `crop` x `crop`.

    Computes only the pixels of the crop, on the grid of the whole resized image: the result is that of resizing first
    and cropping second.
    """
    return _resize(image, crop_box(image.size, preprocessing), preprocessing)


def resize_to_array(image: Image.Image, box: Box, preprocessing: Preprocessing) -> np.ndarray:
    """Resizes a box of an RGB or RGBA image to `crop` x `crop`: uint8 (3, crop, crop), RGB, transparency over white."""
    if image.mode == "RGB" and resample is not None:
        try:
            _, source = image.__arrow_c_array__()
        except ValueError:  # Pillow stores more than 16 MB in several blocks, which only Pillow itself can resize
            pass
        else:
            crop = preprocessing.crop
            pixels = np.empty((3, crop, crop), np.uint8)
            resample(source, image.width, image.height, preprocessing.interpolation, box, pixels, crop, crop)
            return pixels
    # Flattening after the resize costs the same for images of any size. The pixels are those of flattening first:
    # Pillow resizes premultiplied colours.
    return to_array(flatten_on_white(_resize(image, box, preprocessing)))


def axis_weights(interpolation: Interpolation, source: int, start: float, end: float, size: int) -> np.ndarray:
    """The weights with which `size` pixels are made from those between `start` and `end` along one axis, if `COMPILED`.

    Returns:
        int32: how many weights a pixel has room for; then for each pixel the first source pixel and their number; then
        the weights, with 22 fractional bits.
    """
    return np.frombuffer(axis(interpolation, source, start, end, size), np.int32)


def _resize(image: Image.Image, box: Box, preprocessing: Preprocessing) -> Image.Image:
    return image.resize((preprocessing.crop, preprocessing.crop), RESAMPLING[preprocessing.interpolation], box)


def to_rgb_or_rgba(image: Image.Image) -> Image.Image:
    """Converts any mode of the supported formats to 8-bit RGB, or to RGBA if the image has transparency."""
    mode = "RGBA" if image.has_transparency_data else "RGB"
    return image if image.mode == mode else image.convert(mode)


def flatten_on_white(image: Image.Image) -> Image.Image:
    """Lays an RGBA image over white; returns an RGB image unchanged."""
    if image.mode == "RGB":
        return image
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")


def to_array(image: Image.Image) -> np.ndarray:
    """An RGB image as uint8 (3, height, width)."""
    return np.ascontiguousarray(np.asarray(image).transpose(2, 0, 1))
