"""Drawings as a data set: pictures of shapes and patterns, nothing to download, and as many as anyone likes."""

from __future__ import annotations

import hashlib

import numpy as np

from model_export.datasets.base import Data, Dataset
from model_export.drawings.pictures import CLASSES, STANDARD, Style, picture
from model_export.errors import InputError


class Drawings(Dataset):
    """Pictures `first` to `first + count - 1` of the endless series `seed`, each a JPEG file drawn when it is read.

    The classes come in turn.

    Args:
        first: two data sets of one seed have no picture in common if their numbers do not overlap.
        classes: at least two of `drawings.pictures.CLASSES`, in any order.

    Raises:
        InputError: there is no such class, there are too few, or one is named twice.
    """

    def __init__(
        self,
        *,
        seed: int,
        count: int,
        first: int = 0,
        classes: tuple[str, ...] = CLASSES,
        style: Style = STANDARD,
    ) -> None:
        if unknown := [name for name in classes if name not in CLASSES]:
            raise InputError(f"there are no drawings of {', '.join(unknown)}: choose from {', '.join(CLASSES)}")
        if len(classes) < 2 or len(set(classes)) < len(classes):
            raise InputError(
                f"drawings of {', '.join(classes) or 'nothing'} cannot be told apart: name at least two classes, each "
                f"once, of {', '.join(CLASSES)}"
            )
        self.name = f"drawings {first} to {first + count - 1} (seed {seed})"
        self.classes = classes
        self.labels = np.arange(first, first + count) % len(classes)
        self.seed, self.first, self.style = seed, first, style

    def read(self, index: int) -> bytes:
        return picture(self.seed, self.first + index, self.style, self.classes)

    def digest(self, indices: np.ndarray | None = None) -> str:
        """Of what decides the pictures, which takes less time than to draw them all."""
        part = () if indices is None else (indices.tolist(),)
        decides = (self.seed, self.first, len(self), self.classes, self.style, *part)
        return hashlib.sha256(repr(decides).encode()).hexdigest()

    def title(self, index: int) -> str:
        return f"drawing {self.first + index} (seed {self.seed})"


def open_drawings(
    *, train: int, val: int, classes: tuple[str, ...] = CLASSES, style: Style = STANDARD, seed: int = 0
) -> Data:
    """`train` drawings to train on and the next `val` of the same series to validate on.

    Raises:
        InputError: as `Drawings`.
    """
    return Data(
        Drawings(seed=seed, count=train, classes=classes, style=style),
        Drawings(seed=seed, count=val, first=train, classes=classes, style=style),
    )
