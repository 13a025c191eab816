"""Patterns that drawings show, as coverage of the plane.

Everything that varies within a class comes from the generator. Lengths are in units of the picture's shorter side, and
never finer than its pixels can show.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.random import Generator


def _edge(distance: np.ndarray, pixel: float) -> np.ndarray:
    """Coverage by signed distance from an edge, which is as soft as a pixel is wide."""
    return np.clip(distance / pixel + 0.5, 0, 1)


def _band(x: np.ndarray, period: float, share: float, pixel: float) -> np.ndarray:
    """Coverage by bands across x, each `share` of its period wide."""
    to_middle = np.abs((x / period) % 1 - 0.5) * period
    return _edge(share * period / 2 - to_middle, pixel)


def _stripes(x: np.ndarray, y: np.ndarray, pixel: float, rng: Generator) -> np.ndarray:
    return _band(x, rng.uniform(max(0.08, 5 * pixel), 0.3), rng.uniform(0.35, 0.65), pixel) + np.zeros_like(y)


def _checkerboard(x: np.ndarray, y: np.ndarray, pixel: float, rng: Generator) -> np.ndarray:
    period = rng.uniform(max(0.14, 8 * pixel), 0.4)
    columns, rows = _band(x, period, 0.5, pixel), _band(y, period, 0.5, pixel)
    return columns + rows - 2 * columns * rows


def _dots(x: np.ndarray, y: np.ndarray, pixel: float, rng: Generator) -> np.ndarray:
    pitch = rng.uniform(max(0.12, 6 * pixel), 0.3)
    radius = rng.uniform(0.2, 0.36)  # in pitches, as are the distances below
    y = y / pitch
    row = np.floor(y)
    x = x / pitch + row % 2 * rng.choice([0.0, 0.5])  # in columns, or every other row shifted by half a pitch
    column = np.floor(x)
    jitter = rng.uniform(0, 0.5 - radius) * rng.uniform(-1, 1, (2, 64, 64)).astype(np.float32)
    cell = row.astype(np.intp) % 64, column.astype(np.intp) % 64
    dx = x - column - 0.5 - jitter[0][cell]
    dy = y - row - 0.5 - jitter[1][cell]
    return _edge(radius - np.sqrt(dx * dx + dy * dy), pixel / pitch)


# (x, y, width of a pixel, rng) -> coverage in [0, 1]; x and y are the pixels' positions, turned and shifted at random
Pattern = Callable[[np.ndarray, np.ndarray, float, Generator], np.ndarray]

PATTERNS: dict[str, Pattern] = {"stripes": _stripes, "checkerboard": _checkerboard, "dots": _dots}
