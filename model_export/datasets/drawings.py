"""Drawings as a data set: pictures of shapes and patterns, nothing to download, and as many as anyone likes."""

from __future__ import annotations

import hashlib

import numpy as np

from model_export.datasets.base import Data, Dataset
from model_export.drawings.pictures import CLASSES, STANDARD, Style, picture
from model_export.drawings.several import several, shown
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


class DrawingsOfSeveral(Drawings):
    """The same with up to `figures` classes in each picture, or none: `labels` are float32 (N, classes)."""

    def __init__(
        self,
        *,
        seed: int,
        count: int,
        figures: int,
        first: int = 0,
        classes: tuple[str, ...] = CLASSES,
        style: Style = STANDARD,
    ) -> None:
        super().__init__(seed=seed, count=count, first=first, classes=classes, style=style)
        self.figures = figures
        self.name = f"drawings of up to {figures}, {first} to {first + count - 1} (seed {seed})"
        self.labels = np.zeros((count, len(classes)), np.float32)
        for i in range(count):
            self.labels[i, shown(seed, first + i, figures, len(classes))] = 1

    def read(self, index: int) -> bytes:
        return several(self.seed, self.first + index, self.figures, self.style, self.classes)

    def digest(self, indices: np.ndarray | None = None) -> str:
        return hashlib.sha256(f"{super().digest(indices)} {self.figures}".encode()).hexdigest()


def open_drawings(
    *,
    train: int,
    val: int,
    classes: tuple[str, ...] = CLASSES,
    style: Style = STANDARD,
    seed: int = 0,
    figures: int | None = None,
) -> Data:
    """`train` drawings to train on and the next `val` of the same series to validate on.

    Args:
        figures: if given, pictures show up to so many classes, or none (multi-label).

    Raises:
        InputError: as `Drawings`.
    """
    if figures is not None:
        return Data(
            DrawingsOfSeveral(seed=seed, count=train, figures=figures, classes=classes, style=style),
            DrawingsOfSeveral(seed=seed, count=val, figures=figures, first=train, classes=classes, style=style),
        )
    return Data(
        Drawings(seed=seed, count=train, classes=classes, style=style),
        Drawings(seed=seed, count=val, first=train, classes=classes, style=style),
    )
