"""A drawn data set: pictures of shapes and patterns, for training where no photographs can be had.

A picture is a figure in one colour on a ground in another, both shaded, then sensor noise. Shapes are polygons placed
inside the square that serving cuts out; patterns fill the whole picture. A `Style` says how large and how hard to
tell. `python -m model_export.drawings OUT.png` writes a sheet with samples of every class.
"""

from __future__ import annotations

import argparse
import io
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from PIL import Image, ImageChops, ImageDraw, ImageOps

from model_export.figures import PATTERNS, SHAPES, Pattern, Rng, Shape
from service.card import Preprocessing
from service.imaging import decode

CLASSES = (*SHAPES, *PATTERNS)

VISIBLE = 0.875  # of the shorter side is left by serving: resized to 256, cut to 224
SIDES = (32, 1000)  # of square pictures, in pixels: below, shapes cannot be told apart
MAX_PIXELS = 1_000_000  # more than any drawing has
LUMA = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601, as in JPEG

Difficulty = Literal["easy", "standard", "hard"]


@dataclass(frozen=True)
class Style:
    """What pictures look like. Pairs are the ends of a range, both included."""

    shorter_side: tuple[int, int] = (240, 480)  # pixels
    max_aspect: float = 1.5
    half_size: tuple[float, float] = (0.25, 0.43)  # of a shape's bounding box, as a fraction of the shorter side
    max_tilt: float = np.pi / 8  # of a shape, either way, in radians
    contrast: tuple[float, float] = (80.0, 256.0)  # between figure and ground, in luma (0 to 255)
    figure_shading: float = 0.2  # how much a surface may vary, as a fraction of the contrast
    ground_shading: float = 0.35
    strokes: int = 0  # at most so many thin lines cross the whole picture
    noise: int = 15  # of the sensor, at most, either way, in levels (0 to 255)
    grey: float = 0.08  # of all pictures have no colour
    jpeg_quality: tuple[int, int] = (35, 95)

    def square(self, side: int) -> Style:
        """The same in squares of `side` pixels, of 32 to 1000 (`SIDES`)."""
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


def draw(label: int, rng: Rng, style: Style = STANDARD) -> Image.Image:
    """A picture (RGB) of class `CLASSES[label]`: all its accidents come from `rng`.

    Raises:
        IndexError: there is no such class.
    """
    size = _size(rng, style)
    figure = mask(label, size, rng, style)
    ground_colour, figure_colour = _colours(rng, style)
    # Shading is a fraction of the contrast, so that the figure never melts into its ground.
    contrast = float(np.abs(LUMA @ (figure_colour - ground_colour)))
    picture = Image.composite(
        _shaded(size, figure_colour, contrast * rng.uniform(0, style.figure_shading), rng),
        _shaded(size, ground_colour, contrast * rng.uniform(0, style.ground_shading), rng),
        figure,
    )
    if style.strokes:
        picture.paste(tuple(rng.integers(0, 256, 3).tolist()), mask=_strokes_mask(size, style.strokes, rng))
    picture = _with_noise(picture, style.noise, rng)
    if rng.random() < style.grey:
        picture = picture.convert("L").convert("RGB")
    return picture


def draw_jpeg(label: int, rng: Rng, style: Style = STANDARD) -> bytes:
    """A picture of class `CLASSES[label]` as a JPEG file.

    Raises:
        IndexError: there is no such class.
    """
    file = io.BytesIO()
    draw(label, rng, style).save(file, "JPEG", quality=int(rng.integers(*style.jpeg_quality, endpoint=True)))
    return file.getvalue()


def label_of(index: int) -> int:
    """The class of a data set's picture number `index`: every class in turn."""
    return index % len(CLASSES)


def picture(seed: int, index: int, style: Style = STANDARD) -> bytes:
    """Picture number `index` of the endless data set `seed`, a JPEG: the same whoever draws it, in whatever order."""
    return draw_jpeg(label_of(index), np.random.default_rng((seed, index)), style)


def pixels(seed: int, index: int, preprocessing: Preprocessing) -> np.ndarray:
    """`picture(seed, index)` as the service would see it: uint8 `(3, crop, crop)`, RGB."""
    return decode(picture(seed, index), preprocessing, max_pixels=MAX_PIXELS).pixels


def mask(label: int, size: tuple[int, int], rng: Rng, style: Style = STANDARD) -> Image.Image:
    """Where the figure is in a picture of `size` (width, height): mode L, 255 inside, anti-aliased.

    Raises:
        IndexError: there is no such class.
    """
    name = CLASSES[label]
    if name in SHAPES:
        return _shape_mask(SHAPES[name], size, rng, style)
    return _pattern_mask(PATTERNS[name], size, rng)


def _shape_mask(shape: Shape, size: tuple[int, int], rng: Rng, style: Style) -> Image.Image:
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


def _strokes_mask(size: tuple[int, int], most: int, rng: Rng) -> Image.Image:
    """Thin straight lines from border to border, at most so many."""
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
    """How many times larger polygons and lines are drawn, to be reduced: Pillow's own have jagged edges."""
    return max(2, 256 // min(size))


def _pattern_mask(pattern: Pattern, size: tuple[int, int], rng: Rng) -> Image.Image:
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


def _size(rng: Rng, style: Style) -> tuple[int, int]:
    """Width and height, either way up."""
    shorter = int(rng.integers(*style.shorter_side, endpoint=True))
    longer = int(shorter * rng.uniform(1, style.max_aspect))
    return (shorter, longer) if rng.random() < 0.5 else (longer, shorter)


def _colours(rng: Rng, style: Style) -> tuple[np.ndarray, np.ndarray]:
    """Ground and figure, float RGB in 0 to 255, as far apart in luma as the style wants."""
    while True:
        ground, figure = rng.uniform(0, 255, (2, 3))
        if rng.random() < 0.3:
            ground[:] = rng.choice([rng.uniform(0, 30), rng.uniform(225, 255)])  # a black or white sheet
        if rng.random() < 0.3:
            figure = 255.0 * (figure > 128)  # a crayon: black, white or a pure colour
        if style.contrast[0] <= np.abs(LUMA @ (figure - ground)) <= style.contrast[1]:
            return ground, figure


def _shaded(size: tuple[int, int], colour: np.ndarray, amount: float, rng: Rng) -> Image.Image:
    """A surface of one colour (RGB), evenly lit or varied by up to `amount` in a random way."""
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


def _clutter(rng: Rng) -> np.ndarray:
    """Overlapping boxes and bars in -1 to 1, (24, 24, 3): things out of focus, once they are enlarged."""
    field = np.zeros((24, 24, 3))
    for _ in range(12):
        (top, left), (height, width) = rng.integers(0, 22, 2), rng.integers(1, 12, 2)
        field[top : top + height, left : left + width] = rng.uniform(-1, 1, 3)
    return field


def _with_noise(picture: Image.Image, most: int, rng: Rng) -> Image.Image:
    """Sensor noise: independent in every pixel and channel."""
    amount = int(rng.integers(0, most, endpoint=True))
    noise = rng.integers(0, 2 * amount, (picture.height, picture.width, 3), dtype=np.uint8, endpoint=True)
    return ImageChops.add(picture, Image.fromarray(noise), offset=-amount)  # saturates at 0 and 255


def contact_sheet(*, seed: int = 0, samples: int = 6, side: int = 88, style: Style = STANDARD) -> Image.Image:
    """`samples` pictures of every class, cut to squares of `side` pixels, two classes to a row, each named."""
    cell = side + 4
    caption = 116
    block = caption + samples * cell
    sheet = Image.new("RGB", (2 * block, -(-len(CLASSES) // 2) * cell), "white")
    canvas = ImageDraw.Draw(sheet)
    for label, name in enumerate(CLASSES):
        left, top = block * (label % 2), cell * (label // 2)
        canvas.text((left + caption - 8, top + side // 2), name, fill="black", font_size=15, anchor="rm")
        for i in range(samples):
            sample = draw(label, np.random.default_rng((seed, i * len(CLASSES) + label)), style)
            sheet.paste(ImageOps.fit(sample, (side, side)), (left + caption + i * cell, top + 2))
    return sheet


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m model_export.drawings", description="Draw samples of every class.")
    parser.add_argument("out", type=Path, help="the image file to write")
    parser.add_argument(
        "--difficulty", choices=get_args(Difficulty), default="standard", help="how hard to tell (default: standard)"
    )
    args = parser.parse_args()
    # 128 colours are enough to show them, and a seventh of the bytes
    contact_sheet(style=STYLES[args.difficulty]).quantize(128, dither=Image.Dither.NONE).save(args.out)


if __name__ == "__main__":
    main()
