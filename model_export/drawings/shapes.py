"""Shapes that drawings show, as polygons inside the unit circle.

Everything that varies within a class comes from the generator. Details are never finer than the picture's pixels can
show: in a picture of 32 pixels a spiral has fewer turns than in one of 300.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.random import Generator

Points = np.ndarray  # float (N, 2): a closed polygon, x to the right, y down


class Ink(NamedTuple):
    """One polygon of a shape, inside the unit circle. A hole erases what was drawn before it."""

    points: Points
    hole: bool = False


def _arc(start: float, stop: float, radius: float = 1.0, centre: tuple[float, float] = (0.0, 0.0)) -> Points:
    angles = np.linspace(start, stop, 96)
    return radius * np.stack([np.cos(angles), np.sin(angles)], axis=1) + centre


def _at_most(usual: float, pixels_allow: float, least: float) -> float:
    """The upper end of a range: the usual one, or less where the picture has too few pixels, but at least `least`."""
    return max(least, min(usual, pixels_allow))


def _maybe_hollow(points: Points, rng: Generator, pixel: float) -> list[Ink]:
    """The polygon filled or, once in ten times, only its outline."""
    if rng.random() < 0.9:
        return [Ink(points)]
    return [Ink(points), Ink(points * rng.uniform(0.6, _at_most(0.85, 1 - 4 * pixel, 0.6)), hole=True)]


def _circle(rng: Generator, pixel: float) -> list[Ink]:
    return [Ink(_arc(0, 2 * np.pi))]  # never hollow: that would be a ring


def _ring(rng: Generator, pixel: float) -> list[Ink]:
    return [
        Ink(_arc(0, 2 * np.pi)),
        Ink(_arc(0, 2 * np.pi, rng.uniform(0.45, _at_most(0.88, 1 - 2 * pixel, 0.45))), hole=True),
    ]


def _crescent(rng: Generator, pixel: float) -> list[Ink]:
    side = rng.choice([-1, 1])
    bite = _arc(0, 2 * np.pi, rng.uniform(0.75, 0.95), centre=(side * rng.uniform(0.4, 0.6), 0.0))
    return [Ink(_arc(0, 2 * np.pi)), Ink(bite, hole=True)]


def _triangle(rng: Generator, pixel: float) -> list[Ink]:
    corners = 2 * np.pi * np.arange(3) / 3 - np.pi / 2 + rng.uniform(-0.25, 0.25, 3)
    return _maybe_hollow(np.stack([np.cos(corners), np.sin(corners)], axis=1), rng, pixel)


def _square(rng: Generator, pixel: float) -> list[Ink]:
    return _maybe_hollow(np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) / np.sqrt(2), rng, pixel)


def _star(rng: Generator, pixel: float) -> list[Ink]:
    points = int(rng.integers(5, 7))
    radii = np.tile([1.0, rng.uniform(0.36, 0.52)], points)
    angles = np.pi * np.arange(2 * points) / points - np.pi / 2
    return _maybe_hollow(radii[:, None] * np.stack([np.cos(angles), np.sin(angles)], axis=1), rng, pixel)


def _cross(rng: Generator, pixel: float) -> list[Ink]:
    a = rng.uniform(0.12, 0.33)  # half an arm's width
    b = np.sqrt(1 - a * a)
    return [Ink(np.array([[-a, -b], [a, -b], [a, b], [-a, b]])), Ink(np.array([[-b, -a], [b, -a], [b, a], [-b, a]]))]


def _heart(rng: Generator, pixel: float) -> list[Ink]:
    t = np.linspace(0, 2 * np.pi, 96)
    x = 16 * np.sin(t) ** 3
    # https://mathworld.wolfram.com/HeartCurve.html
    y = -(13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)) - 2
    return _maybe_hollow(np.stack([x, y * rng.uniform(0.9, 1.0)], axis=1) / 17.6, rng, pixel)


def _spiral(rng: Generator, pixel: float) -> list[Ink]:
    most = _at_most(4.0, 1 / (3 * pixel) - 0.5, 1.25)  # turns at least three pixels wide
    turns = rng.uniform(min(2.0, most), most)
    pitch = 1 / (turns + 0.5)
    half_width = pitch * rng.uniform(0.15, 0.27)
    angles = np.linspace(0, 2 * np.pi * turns, int(60 * turns))
    middle = half_width + (1 - 2 * half_width) * angles / angles[-1]
    direction = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    inner, outer = (middle - half_width)[:, None] * direction, (middle + half_width)[:, None] * direction
    return [Ink(np.concatenate([outer, inner[::-1]]))]


# (rng, width of a pixel in units of the circle's radius) -> polygons, drawn in order
Shape = Callable[[Generator, float], list[Ink]]

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
