"""Gives an image the size of the network's input, with the same pixels in training and in serving."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from PIL import Image

from service.runtime.preprocessing import Interpolation, Preprocessing

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


class View(NamedTuple):
    """What the network sees of an image.

    Attributes:
        box: the part of the image.
        size: width and height that this part is resized to, in pixels.
        offset: where it lies in the network's input, from the left and from the top, in pixels.
    """

    box: Box
    size: tuple[int, int]
    offset: tuple[int, int] = (0, 0)


def view_of(size: tuple[int, int], preprocessing: Preprocessing) -> View:
    """The view of an upright image of this width and height.

    With the fit `crop`, only the pixels of the crop are computed, on the grid of the whole resized image: the result is
    that of resizing first and cropping second.
    """
    width, height = size
    target = preprocessing.width, preprocessing.height
    if preprocessing.fit == "squash":
        return View((0, 0, width, height), target)
    if preprocessing.fit == "letterbox":
        scale = min(target[0] / width, target[1] / height)
        inner = max(1, round(width * scale)), max(1, round(height * scale))
        return View((0, 0, width, height), inner, ((target[0] - inner[0]) // 2, (target[1] - inner[1]) // 2))
    resized_width, resized_height = resized_size(size, preprocessing.resize)
    left = round((resized_width - target[0]) / 2)
    top = round((resized_height - target[1]) / 2)
    scale_x, scale_y = width / resized_width, height / resized_height
    box = left * scale_x, top * scale_y, (left + target[0]) * scale_x, (top + target[1]) * scale_y
    return View(box, target)


def input_box(size: tuple[int, int], preprocessing: Preprocessing) -> Box:
    """The network's input as a box of an upright image of this width and height. A letterbox reaches beyond it."""
    view = view_of(size, preprocessing)
    (left, top, right, bottom), (width, height), offset = view
    scale_x, scale_y = (right - left) / width, (bottom - top) / height
    left, top = left - offset[0] * scale_x, top - offset[1] * scale_y
    return left, top, left + preprocessing.width * scale_x, top + preprocessing.height * scale_y


def network_view(image: Image.Image, preprocessing: Preprocessing) -> Image.Image:
    """What the network sees of an upright RGB image, in colour."""
    view = view_of(image.size, preprocessing)
    resized = image.resize(view.size, RESAMPLING[preprocessing.interpolation], view.box)
    if preprocessing.fit != "letterbox":
        return resized
    whole = Image.new("RGB", (preprocessing.width, preprocessing.height), preprocessing.fill)
    whole.paste(resized, view.offset)
    return whole


def network_input(image: Image.Image, preprocessing: Preprocessing) -> np.ndarray:
    """What the network gets of an upright RGB image: uint8 (channels, height, width)."""
    return with_channels(to_array(network_view(image, preprocessing)), preprocessing.channels)


def complete(pixels: np.ndarray, view: View, preprocessing: Preprocessing) -> np.ndarray:
    """Adds the bars of a letterbox to a resized view, uint8 (3, height, width), and makes it grey if there is one
    channel: uint8 (channels, height, width).
    """
    _, height, width = preprocessing.shape
    if pixels.shape[1:] != (height, width):
        whole = np.empty((3, height, width), np.uint8)
        whole[:] = np.array(preprocessing.fill, np.uint8)[:, None, None]
        left, top = view.offset
        whole[:, top : top + view.size[1], left : left + view.size[0]] = pixels
        pixels = whole
    return with_channels(pixels, preprocessing.channels)


def with_channels(pixels: np.ndarray, channels: int) -> np.ndarray:
    """RGB pixels, uint8 (3, H, W), or with one channel their luma, (1, H, W), in Pillow's integers."""
    if channels == 3:
        return pixels
    weights = np.array((19595, 38470, 7471), np.uint32)[:, None, None]  # ITU-R BT.601, times 2 ** 16
    luma: np.ndarray = (pixels * weights).sum(axis=0, keepdims=True, dtype=np.uint32)
    return ((luma + 0x8000) >> 16).astype(np.uint8)


def resize_to_array(image: Image.Image, box: Box, size: tuple[int, int], interpolation: Interpolation) -> np.ndarray:
    """Resizes a box of an RGB or RGBA image: uint8 (3, height, width), RGB, transparency over white.

    Args:
        size: width and height of the result, in pixels.
    """
    width, height = size
    if image.mode == "RGB" and resample is not None:
        try:
            _, source = image.__arrow_c_array__()
        except ValueError:  # Pillow stores more than 16 MB in several blocks, which only Pillow itself can resize
            pass
        else:
            pixels = np.empty((3, height, width), np.uint8)
            resample(source, image.width, image.height, interpolation, box, pixels, width, height)
            return pixels
    # Flattening after the resize costs the same for images of any size. The pixels are those of flattening first:
    # Pillow resizes premultiplied colours.
    return to_array(flatten_on_white(image.resize(size, RESAMPLING[interpolation], box)))


def axis_weights(interpolation: Interpolation, source: int, start: float, end: float, size: int) -> np.ndarray:
    """The weights with which `size` pixels are made from those between `start` and `end` along one axis, if `COMPILED`.

    Returns:
        int32: how many weights a pixel has room for; then for each pixel the first source pixel and their number; then
        the weights, with 22 fractional bits.
    """
    return np.frombuffer(axis(interpolation, source, start, end, size), np.int32)


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
