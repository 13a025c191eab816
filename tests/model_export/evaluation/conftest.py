"""A small data set of JPEG files."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest

from model_export.datasets.base import Dataset
from model_export.drawings.pictures import picture

CLASSES = tuple(f"class {i}" for i in range(10))  # of `random_weights` with 10 classes


class Pictures(Dataset):
    """Drawings, with arbitrary labels."""

    def __init__(self, count: int, classes: Sequence[str] = CLASSES) -> None:
        self.name = "pictures"
        self.classes = tuple(classes)
        self.labels = np.arange(count) % len(self.classes)
        self.replaced: dict[int, bytes] = {}

    def read(self, index: int) -> bytes:
        return self.replaced.get(index) or picture(7, index)

    def title(self, index: int) -> str:
        return f"picture {index}"


@pytest.fixture
def pictures() -> Callable[..., Pictures]:
    return Pictures
