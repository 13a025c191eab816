"""A drawn data set: pictures of shapes and patterns, for training where no photographs can be had.

A picture is a figure in one colour on a ground in another, both shaded, then sensor noise. Shapes are polygons placed
inside the square that serving cuts out; patterns fill the whole picture. `python -m model_export.drawings OUT.png`
writes a sheet with samples of every class.
"""

from __future__ import annotations

import argparse
import io
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageChops, ImageDraw, ImageOps

from service.card import Preprocessing
from service.imaging import decode

Rng = np.random.Generator
Points = np.ndarray  # float (N, 2): a closed polygon, x to the right, y down

SHORTER_SIDE = (240, 480)  # pixels
MAX_ASPECT = 1.5
HALF_SIZE = (0.25, 0.43)  # of a shape's bounding box, as a fraction of the shorter side
MAX_TILT = np.pi / 8  # of a shape, either way
VISIBLE = 0.875  # of the shorter side is left by serving: resized to 256, cut to 224
MIN_CONTRAST = 80.0  # between figure and ground, in luma (0 to 255)
JPEG_QUALITY = (35, 95)
MAX_PIXELS = 1_000_000  # more than any drawing has

SUPERSAMPLING = 2  # polygons are drawn this much larger, then reduced: Pillow's own have jagged edges
LUMA = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601, as in JPEG


class Ink(NamedTuple):
    """One polygon of a shape, inside the unit circle; a hole takes away what was drawn before it."""

    points: Points
    hole: bool = False


# Shapes: rng -> polygons inside the unit circle.


def _arc(start: float, stop: float, radius: float = 1.0, centre: tuple[float, float] = (0.0, 0.0)) -> Points:
    angles = np.linspace(start, stop, 96)
    return radius * np.stack([np.cos(angles), np.sin(angles)], axis=1) + centre


def _maybe_hollow(points: Points, rng: Rng) -> list[Ink]:
    """The polygon filled, or now and then only its outline."""
    if rng.random() < 0.9:
        return [Ink(points)]
    return [Ink(points), Ink(points * rng.uniform(0.6, 0.85), hole=True)]


def _circle(rng: Rng) -> list[Ink]:
    return [Ink(_arc(0, 2 * np.pi))]  # never hollow: that is a ring


def _ring(rng: Rng) -> list[Ink]:
    return [Ink(_arc(0, 2 * np.pi)), Ink(_arc(0, 2 * np.pi, rng.uniform(0.45, 0.88)), hole=True)]


def _crescent(rng: Rng) -> list[Ink]:
    side = rng.choice([-1, 1])
    bite = _arc(0, 2 * np.pi, rng.uniform(0.75, 0.95), centre=(side * rng.uniform(0.4, 0.6), 0.0))
    return [Ink(_arc(0, 2 * np.pi)), Ink(bite, hole=True)]


def _triangle(rng: Rng) -> list[Ink]:
    corners = 2 * np.pi * np.arange(3) / 3 - np.pi / 2 + rng.uniform(-0.25, 0.25, 3)
    return _maybe_hollow(np.stack([np.cos(corners), np.sin(corners)], axis=1), rng)


def _square(rng: Rng) -> list[Ink]:
    return _maybe_hollow(np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) / np.sqrt(2), rng)


def _star(rng: Rng) -> list[Ink]:
    points = int(rng.integers(5, 7))
    radii = np.tile([1.0, rng.uniform(0.36, 0.52)], points)
    angles = np.pi * np.arange(2 * points) / points - np.pi / 2
    return _maybe_hollow(radii[:, None] * np.stack([np.cos(angles), np.sin(angles)], axis=1), rng)


def _cross(rng: Rng) -> list[Ink]:
    a = rng.uniform(0.12, 0.33)  # half an arm's width
    b = np.sqrt(1 - a * a)
    return [Ink(np.array([[-a, -b], [a, -b], [a, b], [-a, b]])), Ink(np.array([[-b, -a], [b, -a], [b, a], [-b, a]]))]


def _heart(rng: Rng) -> list[Ink]:
    t = np.linspace(0, 2 * np.pi, 96)
    x = 16 * np.sin(t) ** 3
    y = (
        -(13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)) - 2
    )  # mathworld.wolfram.com/HeartCurve
    return _maybe_hollow(np.stack([x, y * rng.uniform(0.9, 1.0)], axis=1) / 17.6, rng)


def _spiral(rng: Rng) -> list[Ink]:
    turns = rng.uniform(2.0, 4.0)
    pitch = 1 / (turns + 0.5)
    half_width = pitch * rng.uniform(0.15, 0.27)
    angles = np.linspace(0, 2 * np.pi * turns, int(60 * turns))
    middle = half_width + (1 - 2 * half_width) * angles / angles[-1]
    direction = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    inner, outer = (middle - half_width)[:, None] * direction, (middle + half_width)[:, None] * direction
    return [Ink(np.concatenate([outer, inner[::-1]]))]


# Patterns: (x, y, rng) -> coverage in [0, 1]. x and y, in units of the shorter side, are turned and shifted at random.
# Edges are as soft as a pixel is wide (`_edge`).


def _edge(distance: np.ndarray, pixel: float) -> np.ndarray:
    return np.clip(distance / pixel + 0.5, 0, 1)


def _band(x: np.ndarray, period: float, share: float, pixel: float) -> np.ndarray:
    """Coverage by bands across x: each period begins with a band of width share * period."""
    to_middle = np.abs((x / period) % 1 - 0.5) * period
    return _edge(share * period / 2 - to_middle, pixel)


def _stripes(x: np.ndarray, y: np.ndarray, pixel: float, rng: Rng) -> np.ndarray:
    return _band(x, rng.uniform(0.08, 0.3), rng.uniform(0.35, 0.65), pixel) + np.zeros_like(y)


def _checkerboard(x: np.ndarray, y: np.ndarray, pixel: float, rng: Rng) -> np.ndarray:
    period = rng.uniform(0.14, 0.4)
    columns, rows = _band(x, period, 0.5, pixel), _band(y, period, 0.5, pixel)
    return columns + rows - 2 * columns * rows


def _dots(x: np.ndarray, y: np.ndarray, pixel: float, rng: Rng) -> np.ndarray:
    pitch = rng.uniform(0.12, 0.3)
    radius = rng.uniform(0.2, 0.36)  # in pitches, as are the distances below
    y = y / pitch
    row = np.floor(y)
    x = x / pitch + row % 2 * rng.choice([0.0, 0.5])  # in columns, or each row shifted by half a pitch
    column = np.floor(x)
    jitter = rng.uniform(0, 0.5 - radius) * rng.uniform(-1, 1, (2, 64, 64)).astype(np.float32)
    cell = row.astype(np.intp) % 64, column.astype(np.intp) % 64
    dx = x - column - 0.5 - jitter[0][cell]
    dy = y - row - 0.5 - jitter[1][cell]
    return _edge(radius - np.sqrt(dx * dx + dy * dy), pixel / pitch)


Shape = Callable[[Rng], list[Ink]]
Pattern = Callable[[np.ndarray, np.ndarray, float, Rng], np.ndarray]

SHAPES: dict[str, Shape] = {
    "circle": _circle,
    "triangle": _triangle,
    "square": _square,
    "star": _star,
    "cross": _cross,
    "heart": _heart,
    "ring": _ring,
    "crescent": _crescent,
    "spiral": _spiral,
}
PATTERNS: dict[str, Pattern] = {"stripes": _stripes, "checkerboard": _checkerboard, "dots": _dots}
CLASSES = (*SHAPES, *PATTERNS)


def draw(label: int, rng: Rng) -> Image.Image:
    """A picture (RGB) of class `CLASSES[label]`: all its accidents come from `rng`.

    Raises:
        IndexError: there is no such class.
    """
    size = _size(rng)
    figure = mask(label, size, rng)
    ground_colour, figure_colour = _colours(rng)
    # Shading is a fraction of the contrast, so that the figure never melts into its ground.
    contrast = float(np.abs(LUMA @ (figure_colour - ground_colour)))
    picture = Image.composite(
        _shaded(size, figure_colour, contrast * rng.uniform(0, 0.2), rng),
        _shaded(size, ground_colour, contrast * rng.uniform(0, 0.35), rng),
        figure,
    )
    picture = _with_noise(picture, rng)
    if rng.random() < 0.08:
        picture = picture.convert("L").convert("RGB")
    return picture


def draw_jpeg(label: int, rng: Rng) -> bytes:
    """A picture of class `CLASSES[label]` as a JPEG file of a quality between 35 and 95.

    Raises:
        IndexError: there is no such class.
    """
    file = io.BytesIO()
    draw(label, rng).save(file, "JPEG", quality=int(rng.integers(*JPEG_QUALITY, endpoint=True)))
    return file.getvalue()


def label_of(index: int) -> int:
    """The class of a data set's picture number `index`: every class in turn."""
    return index % len(CLASSES)


def picture(seed: int, index: int) -> bytes:
    """Picture number `index` of the endless data set `seed`, a JPEG: the same whoever draws it, in whatever order."""
    return draw_jpeg(label_of(index), np.random.default_rng((seed, index)))


def pixels(seed: int, index: int, preprocessing: Preprocessing) -> np.ndarray:
    """`picture(seed, index)` as the service would see it: uint8 `(3, crop, crop)`, RGB."""
    return decode(picture(seed, index), preprocessing, max_pixels=MAX_PIXELS).pixels


def mask(label: int, size: tuple[int, int], rng: Rng) -> Image.Image:
    """Where the figure is in a picture of `size` (width, height): mode L, 255 inside, anti-aliased.

    Raises:
        IndexError: there is no such class.
    """
    name = CLASSES[label]
    if name in SHAPES:
        return _shape_mask(SHAPES[name], size, rng)
    return _pattern_mask(PATTERNS[name], size, rng)


def _shape_mask(shape: Shape, size: tuple[int, int], rng: Rng) -> Image.Image:
    inks = shape(rng)
    squash = np.diag([1.0, rng.uniform(0.9, 1.0)])
    tilt = _rotation(rng.uniform(-MAX_TILT, MAX_TILT))
    turned = [ink.points @ (tilt @ squash).T for ink in inks]
    corners = np.concatenate([points for points, ink in zip(turned, inks, strict=True) if not ink.hole])
    low, high = corners.min(axis=0), corners.max(axis=0)

    half = rng.uniform(*HALF_SIZE)
    room = VISIBLE / 2 - half
    scale = half * min(size) / ((high - low).max() / 2)
    centre = np.array(size) / 2 + rng.uniform(-room, room, 2) * min(size)
    large = Image.new("L", (size[0] * SUPERSAMPLING, size[1] * SUPERSAMPLING))
    canvas = ImageDraw.Draw(large)
    for points, ink in zip(turned, inks, strict=True):
        placed = ((points - (low + high) / 2) * scale + centre) * SUPERSAMPLING
        canvas.polygon(placed.ravel().tolist(), fill=0 if ink.hole else 255)
    return large.reduce(SUPERSAMPLING)


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


def _size(rng: Rng) -> tuple[int, int]:
    """Width and height, either way up."""
    shorter = int(rng.integers(*SHORTER_SIDE, endpoint=True))
    longer = int(shorter * rng.uniform(1, MAX_ASPECT))
    return (shorter, longer) if rng.random() < 0.5 else (longer, shorter)


def _colours(rng: Rng) -> tuple[np.ndarray, np.ndarray]:
    """Ground and figure, float RGB in 0 to 255, at least MIN_CONTRAST of luma apart."""
    while True:
        ground, figure = rng.uniform(0, 255, (2, 3))
        if rng.random() < 0.3:
            ground[:] = rng.choice([rng.uniform(0, 30), rng.uniform(225, 255)])  # a black or white sheet
        if rng.random() < 0.3:
            figure = 255.0 * (figure > 128)  # a crayon: black, white or a pure colour
        if np.abs(LUMA @ (figure - ground)) >= MIN_CONTRAST:
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


def _with_noise(picture: Image.Image, rng: Rng) -> Image.Image:
    """Sensor noise: independent in every pixel and channel."""
    amount = int(rng.integers(0, 16))
    noise = rng.integers(0, 2 * amount, (picture.height, picture.width, 3), dtype=np.uint8, endpoint=True)
    return ImageChops.add(picture, Image.fromarray(noise), offset=-amount)  # saturates at 0 and 255


def contact_sheet(*, seed: int = 0, samples: int = 6, side: int = 88) -> Image.Image:
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
            sample = draw(label, np.random.default_rng((seed, i * len(CLASSES) + label)))
            sheet.paste(ImageOps.fit(sample, (side, side)), (left + caption + i * cell, top + 2))
    return sheet


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m model_export.drawings", description="Draw samples of every class.")
    parser.add_argument("out", type=Path, help="the image file to write")
    # 128 colours are enough to show them, and a seventh of the bytes
    contact_sheet().quantize(128, dither=Image.Dither.NONE).save(parser.parse_args().out)


if __name__ == "__main__":
    main()
