"""Pictures that show several classes, or none, side by side: each class at most once, in the four quarters."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
from numpy.random import Generator
from PIL import Image

from model_export.drawings.pictures import CLASSES, STANDARD, VISIBLE, Style, coloured, mask, picture_size

QUARTERS = ((0, 0), (0, 1), (1, 0), (1, 1))
MOST_FIGURES = len(QUARTERS)
LEAST_SIDE = 64  # pixels: a quarter of it is as large as the smallest picture of one shape


def figures_of(rng: Generator, most: int, classes: int) -> np.ndarray:
    """What a picture shows: indices of classes, none twice; from none to `most` of them, equally often."""
    return rng.permutation(classes)[: rng.integers(0, min(most, classes), endpoint=True)]


def several(seed: int, index: int, most: int, style: Style = STANDARD, classes: Sequence[str] = CLASSES) -> bytes:
    """Picture number `index` of the endless series `seed`, a JPEG file; `shown` says what it shows.

    Args:
        most: figures in a picture, 1 to `MOST_FIGURES`.
        classes: some of `CLASSES`.
    """
    rng = np.random.default_rng((seed, index))
    labels = [CLASSES.index(classes[i]) for i in figures_of(rng, most, len(classes))]
    size = picture_size(rng, style)
    figure = Image.new("L", size)
    side = int(VISIBLE * min(size)) // 2  # of a quarter
    left, top = (length // 2 - side for length in size)
    for label, place in zip(labels, rng.permutation(len(QUARTERS)).tolist(), strict=False):
        row, column = QUARTERS[place]
        figure.paste(mask(label, (side, side), rng, style), (left + column * side, top + row * side))
    file = io.BytesIO()
    quality = int(rng.integers(*style.jpeg_quality, endpoint=True))
    coloured(figure, rng, style).save(file, "JPEG", quality=quality)
    return file.getvalue()


def shown(seed: int, index: int, most: int, classes: int) -> np.ndarray:
    """The classes that `several` draws: indices."""
    return figures_of(np.random.default_rng((seed, index)), most, classes)
