"""What drawings show: shapes, as polygons, and patterns, as coverage of the plane. `drawings` makes pictures of them.

Everything that varies within a class comes from the generator. Details are never finer than the picture's pixels can
show: in a picture of 32 pixels a spiral has fewer turns than in one of 300.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

Rng = np.random.Generator
Points = np.ndarray  # float (N, 2): a closed polygon, x to the right, y down


class Ink(NamedTuple):
    """One polygon of a shape, inside the unit circle; a hole takes away what was drawn before it."""

    points: Points
    hole: bool = False


# Shapes: (rng, pixel) -> polygons inside the unit circle, whose radius is the unit of `pixel`.


def _arc(start: float, stop: float, radius: float = 1.0, centre: tuple[float, float] = (0.0, 0.0)) -> Points:
    angles = np.linspace(start, stop, 96)
    return radius * np.stack([np.cos(angles), np.sin(angles)], axis=1) + centre


def _at_most(usual: float, pixels_allow: float, least: float) -> float:
    """The upper end of a range: the usual one, or less where the picture has too few pixels for it."""
    return max(least, min(usual, pixels_allow))


def _maybe_hollow(points: Points, rng: Rng, pixel: float) -> list[Ink]:
    """The polygon filled, or now and then only its outline."""
    if rng.random() < 0.9:
        return [Ink(points)]
    return [Ink(points), Ink(points * rng.uniform(0.6, _at_most(0.85, 1 - 4 * pixel, 0.6)), hole=True)]


def _circle(rng: Rng, pixel: float) -> list[Ink]:
    return [Ink(_arc(0, 2 * np.pi))]  # never hollow: that is a ring


def _ring(rng: Rng, pixel: float) -> list[Ink]:
    return [
        Ink(_arc(0, 2 * np.pi)),
        Ink(_arc(0, 2 * np.pi, rng.uniform(0.45, _at_most(0.88, 1 - 2 * pixel, 0.45))), hole=True),
    ]


def _crescent(rng: Rng, pixel: float) -> list[Ink]:
    side = rng.choice([-1, 1])
    bite = _arc(0, 2 * np.pi, rng.uniform(0.75, 0.95), centre=(side * rng.uniform(0.4, 0.6), 0.0))
    return [Ink(_arc(0, 2 * np.pi)), Ink(bite, hole=True)]


def _triangle(rng: Rng, pixel: float) -> list[Ink]:
    corners = 2 * np.pi * np.arange(3) / 3 - np.pi / 2 + rng.uniform(-0.25, 0.25, 3)
    return _maybe_hollow(np.stack([np.cos(corners), np.sin(corners)], axis=1), rng, pixel)


def _square(rng: Rng, pixel: float) -> list[Ink]:
    return _maybe_hollow(np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) / np.sqrt(2), rng, pixel)


def _star(rng: Rng, pixel: float) -> list[Ink]:
    points = int(rng.integers(5, 7))
    radii = np.tile([1.0, rng.uniform(0.36, 0.52)], points)
    angles = np.pi * np.arange(2 * points) / points - np.pi / 2
    return _maybe_hollow(radii[:, None] * np.stack([np.cos(angles), np.sin(angles)], axis=1), rng, pixel)


def _cross(rng: Rng, pixel: float) -> list[Ink]:
    a = rng.uniform(0.12, 0.33)  # half an arm's width
    b = np.sqrt(1 - a * a)
    return [Ink(np.array([[-a, -b], [a, -b], [a, b], [-a, b]])), Ink(np.array([[-b, -a], [b, -a], [b, a], [-b, a]]))]


def _heart(rng: Rng, pixel: float) -> list[Ink]:
    t = np.linspace(0, 2 * np.pi, 96)
    x = 16 * np.sin(t) ** 3
    y = (
        -(13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)) - 2
    )  # mathworld.wolfram.com/HeartCurve
    return _maybe_hollow(np.stack([x, y * rng.uniform(0.9, 1.0)], axis=1) / 17.6, rng, pixel)


def _spiral(rng: Rng, pixel: float) -> list[Ink]:
    most = _at_most(4.0, 1 / (3 * pixel) - 0.5, 1.25)  # a turn is three pixels wide at least
    turns = rng.uniform(min(2.0, most), most)
    pitch = 1 / (turns + 0.5)
    half_width = pitch * rng.uniform(0.15, 0.27)
    angles = np.linspace(0, 2 * np.pi * turns, int(60 * turns))
    middle = half_width + (1 - 2 * half_width) * angles / angles[-1]
    direction = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    inner, outer = (middle - half_width)[:, None] * direction, (middle + half_width)[:, None] * direction
    return [Ink(np.concatenate([outer, inner[::-1]]))]


# Patterns: (x, y, pixel, rng) -> coverage in [0, 1]. All lengths are in units of the shorter side; x and y are turned
# and shifted at random. Edges are as soft as a pixel is wide (`_edge`).


def _edge(distance: np.ndarray, pixel: float) -> np.ndarray:
    return np.clip(distance / pixel + 0.5, 0, 1)


def _band(x: np.ndarray, period: float, share: float, pixel: float) -> np.ndarray:
    """Coverage by bands across x: each period begins with a band of width share * period."""
    to_middle = np.abs((x / period) % 1 - 0.5) * period
    return _edge(share * period / 2 - to_middle, pixel)


def _stripes(x: np.ndarray, y: np.ndarray, pixel: float, rng: Rng) -> np.ndarray:
    return _band(x, rng.uniform(max(0.08, 5 * pixel), 0.3), rng.uniform(0.35, 0.65), pixel) + np.zeros_like(y)


def _checkerboard(x: np.ndarray, y: np.ndarray, pixel: float, rng: Rng) -> np.ndarray:
    period = rng.uniform(max(0.14, 8 * pixel), 0.4)
    columns, rows = _band(x, period, 0.5, pixel), _band(y, period, 0.5, pixel)
    return columns + rows - 2 * columns * rows


def _dots(x: np.ndarray, y: np.ndarray, pixel: float, rng: Rng) -> np.ndarray:
    pitch = rng.uniform(max(0.12, 6 * pixel), 0.3)
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


Shape = Callable[[Rng, float], list[Ink]]
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
