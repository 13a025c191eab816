"""Draws the pictures: a shape or pattern in one colour on a ground in another.

Figure and ground are shaded, then sensor noise is added. Shapes lie inside the square that serving crops; patterns fill
the whole picture. A `Style` sets the size and the difficulty.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.random import Generator
from PIL import Image, ImageChops, ImageDraw

from model_export.drawings.patterns import PATTERNS, Pattern
from model_export.drawings.shapes import SHAPES, Shape
from service.runtime.images.decoding import decode
from service.runtime.preprocessing import Preprocessing

CLASSES = (*SHAPES, *PATTERNS)

VISIBLE = 0.875  # share of the shorter side that serving sees: resized to 256, cropped to 224
SIDES = (32, 1000)  # of square pictures, in pixels: below 32, shapes cannot be told apart
LUMA = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601, as in JPEG

Difficulty = Literal["easy", "standard", "hard"]


@dataclass(frozen=True)
class Style:
    """What pictures look like. Pairs are the ends of a range, both included.

    Attributes:
        shorter_side: in pixels.
        max_aspect: longest allowed side, as a multiple of the shorter one.
        half_size: half of a shape's longer side, as a fraction of the picture's shorter side.
        max_tilt: of a shape, either way, in radians.
        contrast: between figure and ground, in luma (0 to 255).
        figure_shading, ground_shading: how much a surface varies at most, as a fraction of the contrast.
        strokes: at most how many thin lines cross the whole picture.
        noise: of the sensor, at most, either way, in levels (0 to 255).
        grey: share of pictures without colour.
        jpeg_quality: of the encoder, 0 to 100.
    """

    shorter_side: tuple[int, int] = (240, 480)
    max_aspect: float = 1.5
    half_size: tuple[float, float] = (0.25, 0.43)
    max_tilt: float = np.pi / 8
    contrast: tuple[float, float] = (80.0, 256.0)
    figure_shading: float = 0.2
    ground_shading: float = 0.35
    strokes: int = 0
    noise: int = 15
    grey: float = 0.08
    jpeg_quality: tuple[int, int] = (35, 95)

    def square(self, side: int) -> Style:
        """The same style for square pictures of `side` pixels, which `SIDES` bounds."""
        return replace(self, shorter_side=(side, side), max_aspect=1.0)


STANDARD = Style()
STYLES: dict[Difficulty, Style] = {
    "easy": Style(
        half_size=(0.34, 0.43),
        max_tilt=np.pi / 16,
        contrast=(120.0, 256.0),
        figure_shading=0.0,
        ground_shading=0.0,
        noise=0,
        grey=0.0,
        jpeg_quality=(85, 95),
    ),
    "standard": STANDARD,
    "hard": Style(
        half_size=(0.18, 0.4),
        max_tilt=np.pi,
        contrast=(45.0, 110.0),
        figure_shading=0.3,
        ground_shading=0.6,
        strokes=5,
        noise=32,
        grey=0.2,
    ),
}


def draw(label: int, rng: Generator, style: Style = STANDARD) -> Image.Image:
    """A picture (RGB) of class `CLASSES[label]`. All variation comes from `rng`.

    Raises:
        IndexError: there is no such class.
    """
    return coloured(mask(label, picture_size(rng, style), rng, style), rng, style)


def coloured(figure: Image.Image, rng: Generator, style: Style) -> Image.Image:
    """A picture (RGB) of a figure, which is given as by `mask`: coloured, shaded, with strokes and noise."""
    size = figure.size
    ground_colour, figure_colour = _colours(rng, style)
    # Shading is a fraction of the contrast: the figure never merges with its ground.
    contrast = float(np.abs(LUMA @ (figure_colour - ground_colour)))
    image = Image.composite(
        _shaded(size, figure_colour, contrast * rng.uniform(0, style.figure_shading), rng),
        _shaded(size, ground_colour, contrast * rng.uniform(0, style.ground_shading), rng),
        figure,
    )
    if style.strokes:
        image.paste(tuple(rng.integers(0, 256, 3).tolist()), mask=_strokes_mask(size, style.strokes, rng))
    image = _with_noise(image, style.noise, rng)
    if rng.random() < style.grey:
        image = image.convert("L").convert("RGB")
    return image


def draw_jpeg(label: int, rng: Generator, style: Style = STANDARD) -> bytes:
    """A picture of class `CLASSES[label]` as a JPEG file.

    Raises:
        IndexError: there is no such class.
    """
    file = io.BytesIO()
    draw(label, rng, style).save(file, "JPEG", quality=int(rng.integers(*style.jpeg_quality, endpoint=True)))
    return file.getvalue()


def picture(seed: int, index: int, style: Style = STANDARD, classes: Sequence[str] = CLASSES) -> bytes:
    """Picture number `index` of the endless series `seed`, a JPEG file. It does not depend on any other picture.

    Args:
        classes: some of `CLASSES`. They come in turn: the picture is of class `classes[index % len(classes)]`.
    """
    label = CLASSES.index(classes[index % len(classes)])
    return draw_jpeg(label, np.random.default_rng((seed, index)), style)


def pixels(seed: int, index: int, preprocessing: Preprocessing) -> np.ndarray:
    """`picture(seed, index)` as the service would see it: uint8 `(3, crop, crop)`, RGB."""
    return decode(picture(seed, index), preprocessing, max_pixels=SIDES[1] ** 2).pixels


def mask(label: int, size: tuple[int, int], rng: Generator, style: Style = STANDARD) -> Image.Image:
    """The figure of a picture of `size` (width, height): mode L, 255 inside, 0 outside, anti-aliased.

    Raises:
        IndexError: there is no such class.
    """
    name = CLASSES[label]
    if name in SHAPES:
        return _shape_mask(SHAPES[name], size, rng, style)
    return _pattern_mask(PATTERNS[name], size, rng)


def _shape_mask(shape: Shape, size: tuple[int, int], rng: Generator, style: Style) -> Image.Image:
    inks = shape(rng, 1 / (style.half_size[0] * min(size)))
    squash = np.diag([1.0, rng.uniform(0.9, 1.0)])
    tilt = _rotation(rng.uniform(-style.max_tilt, style.max_tilt))
    turned = [ink.points @ (tilt @ squash).T for ink in inks]
    corners = np.concatenate([points for points, ink in zip(turned, inks, strict=True) if not ink.hole])
    low, high = corners.min(axis=0), corners.max(axis=0)

    half = rng.uniform(*style.half_size)
    room = VISIBLE / 2 - half
    scale = half * min(size) / ((high - low).max() / 2)
    centre = np.array(size) / 2 + rng.uniform(-room, room, 2) * min(size)
    supersampling = _supersampling(size)
    large = Image.new("L", (size[0] * supersampling, size[1] * supersampling))
    canvas = ImageDraw.Draw(large)
    for points, ink in zip(turned, inks, strict=True):
        placed = ((points - (low + high) / 2) * scale + centre) * supersampling
        canvas.polygon(placed.ravel().tolist(), fill=0 if ink.hole else 255)
    return large.reduce(supersampling)


def _strokes_mask(size: tuple[int, int], most: int, rng: Generator) -> Image.Image:
    """Up to `most` thin straight lines from border to border."""
    supersampling = _supersampling(size)
    large = Image.new("L", (size[0] * supersampling, size[1] * supersampling))
    canvas = ImageDraw.Draw(large)
    for _ in range(rng.integers(0, most, endpoint=True)):
        ends = rng.uniform(0, 1, (2, 2))
        ends[:, rng.integers(2)] = (0, 1)  # from left to right, or from top to bottom
        width = round(rng.uniform(0.006, 0.016) * min(large.size))
        canvas.line((ends * large.size).ravel().tolist(), fill=255, width=width)
    return large.reduce(supersampling)


def _supersampling(size: tuple[int, int]) -> int:
    """The factor by which polygons and lines are drawn larger and then reduced: Pillow does not anti-alias them."""
    return max(2, 256 // min(size))


def _pattern_mask(pattern: Pattern, size: tuple[int, int], rng: Generator) -> Image.Image:
    width, height = size
    pixel = 1 / min(size)
    y, x = np.ogrid[:height, :width]
    turn = _rotation(rng.uniform(0, 2 * np.pi)) * pixel
    shift = rng.uniform(0, 1, 2)
    u, v = ((turn[i, 0] * x + turn[i, 1] * y + shift[i]).astype(np.float32) for i in range(2))
    return Image.fromarray((pattern(u, v, pixel, rng) * 255).astype(np.uint8))


def _rotation(angle: float) -> np.ndarray:
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[c, -s], [s, c]])


def picture_size(rng: Generator, style: Style) -> tuple[int, int]:
    """Width and height, landscape or portrait."""
    shorter = int(rng.integers(*style.shorter_side, endpoint=True))
    longer = int(shorter * rng.uniform(1, style.max_aspect))
    return (shorter, longer) if rng.random() < 0.5 else (longer, shorter)


def _colours(rng: Generator, style: Style) -> tuple[np.ndarray, np.ndarray]:
    """The colours of ground and figure, float RGB in 0 to 255, with a contrast that the style allows."""
    while True:
        ground, figure = rng.uniform(0, 255, (2, 3))
        if rng.random() < 0.3:
            ground[:] = rng.choice([rng.uniform(0, 30), rng.uniform(225, 255)])  # a black or white sheet
        if rng.random() < 0.3:
            figure = 255.0 * (figure > 128)  # a crayon: black, white or a pure colour
        if style.contrast[0] <= np.abs(LUMA @ (figure - ground)) <= style.contrast[1]:
            return ground, figure


def _shaded(size: tuple[int, int], colour: np.ndarray, amount: float, rng: Generator) -> Image.Image:
    """A surface of one colour (RGB), evenly lit or with random variation of up to `amount`."""
    kind = rng.choice(["even", "gradient", "blotches", "clutter"])
    if kind == "even":
        return Image.new("RGB", size, tuple(colour.astype(int).tolist()))
    if kind == "gradient":
        variation = rng.uniform(-1, 1, (2, 2, 1))
    elif kind == "blotches":
        cells = int(rng.integers(3, 24))
        variation = rng.uniform(-1, 1, (cells, cells, 3))
    else:
        variation = _clutter(rng)
    small = np.clip(colour + amount * variation, 0, 255).astype(np.uint8)
    return Image.fromarray(small).resize(size, Image.Resampling.BILINEAR)


def _clutter(rng: Generator) -> np.ndarray:
    """Overlapping boxes and bars, (24, 24, 3) in -1 to 1. Enlarged, they look like things out of focus."""
    field = np.zeros((24, 24, 3))
    for _ in range(12):
        (top, left), (height, width) = rng.integers(0, 22, 2), rng.integers(1, 12, 2)
        field[top : top + height, left : left + width] = rng.uniform(-1, 1, 3)
    return field


def _with_noise(image: Image.Image, most: int, rng: Generator) -> Image.Image:
    """Sensor noise: independent in every pixel and channel."""
    amount = int(rng.integers(0, most, endpoint=True))
    noise = rng.integers(0, 2 * amount, (image.height, image.width, 3), dtype=np.uint8, endpoint=True)
    return ImageChops.add(image, Image.fromarray(noise), offset=-amount)  # saturates at 0 and 255
