"""Some of the images of a data set."""

from __future__ import annotations

import numpy as np
from PIL import Image

from model_export.datasets.base import Dataset


class Subset(Dataset):
    """Some images of a data set, with all of its classes.

    Args:
        indices: int64 (n,), into `whole`.
        name: for logs and reports; by default that of `whole`.
    """

    def __init__(self, whole: Dataset, indices: np.ndarray, name: str | None = None) -> None:
        self.whole, self.indices = whole, indices
        self.name, self.classes, self.labels = name or whole.name, whole.classes, whole.labels[indices]
        self.digests = None if whole.digests is None else whole.digests[indices]

    def read(self, index: int) -> bytes:
        return self.whole.read(int(self.indices[index]))

    def title(self, index: int) -> str:
        return self.whole.title(int(self.indices[index]))

    def digest(self, indices: np.ndarray | None = None) -> str:
        return self.whole.digest(self.indices if indices is None else self.indices[indices])

    def image(self, index: int, window: tuple[int, int] | None = None) -> Image.Image:
        return self.whole.image(int(self.indices[index]), window)
