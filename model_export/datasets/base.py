"""What every data set is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import NamedTuple

import numpy as np
from PIL import Image

from service.imaging import load, on_white, open_image, orientation, to_rgb_or_rgba, turned

MAX_PIXELS = 200_000_000  # of a picture to train on: far more than any camera makes


class Dataset(ABC):
    """Labelled images in a fixed order. Instances are pickled to loader workers, so they hold names, not open files."""

    name: str  # for people: "pictures/train", "CIFAR-10 test"
    classes: tuple[str, ...]
    labels: np.ndarray  # int64 (N,), indices into `classes`

    def __len__(self) -> int:
        return len(self.labels)

    @abstractmethod
    def read(self, index: int) -> bytes:
        """Image `index` as an encoded file, such as a client would upload.

        Raises:
            OSError: the file has gone.
        """

    @abstractmethod
    def title(self, index: int) -> str:
        """What to call image `index` in a report or an error: its path, or its number."""

    def image(self, index: int) -> Image.Image:
        """Image `index`, decoded as the service decodes it: RGB, upright, whole.

        Raises:
            ImageProblem: it is broken.
            OSError: the file has gone.
        """
        data = self.read(index)
        image = load(open_image(data, MAX_PIXELS), data)
        # converted in any case: an opened image would hold on to its file
        return on_white(to_rgb_or_rgba(turned(image, orientation(image)))).convert("RGB")


class Data(NamedTuple):
    """What a training needs. Both parts have the same classes in the same order."""

    train: Dataset
    val: Dataset
