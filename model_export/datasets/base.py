"""The interface of a data set, and how a broken image of one is reported."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
from PIL import Image

from model_export.datasets.digests import listing_digest
from model_export.errors import InputError
from service.runtime.faults import ImageFault
from service.runtime.images.decoding import load_pixels, open_image
from service.runtime.images.orientation import ORIENTATIONS
from service.runtime.images.resizing import flatten_on_white

MAX_PIXELS = 200_000_000  # of one image: far more than any camera takes


class Dataset(ABC):
    """Labelled images in a fixed order. Instances are pickled to loader workers, so they hold names, not open files."""

    name: str  # for logs and reports: "pictures/train", "CIFAR-10 test"
    classes: tuple[str, ...]
    labels: np.ndarray  # int64 (N,), indices into `classes`; multi-label: float32 (N, classes), 1 for those present
    digests: np.ndarray | None = None  # uint8 (N, 32), the SHA-256 of each file; None if the images are not files

    def __len__(self) -> int:
        return len(self.labels)

    @abstractmethod
    def read(self, index: int) -> bytes:
        """Image `index` as an encoded file, such as a client would upload.

        Raises:
            OSError: the file cannot be read.
        """

    @abstractmethod
    def title(self, index: int) -> str:
        """The name of image `index` in reports and errors: its path or its number."""

    def digest(self, indices: np.ndarray | None = None) -> str:
        """A SHA-256 in hex that is equal only for the same images and classes (`digests`).

        Args:
            indices: int64 (n,), of a part; by default all images.

        Raises:
            OSError: an image cannot be read.
        """
        return listing_digest(
            (f"{self.label_text(index)}/{self.title(index)}", hashlib.sha256(self.read(index)).hexdigest())
            for index in (range(len(self)) if indices is None else indices.tolist())
        )

    @property
    def multi_label(self) -> bool:
        """Whether an image may have any number of classes."""
        return self.labels.ndim == 2

    def label_text(self, index: int) -> str:
        """The class of image `index`; of multi-label images `dog+person`, or nothing."""
        if self.multi_label:
            return "+".join(self.classes[i] for i in np.flatnonzero(self.labels[index]))
        return self.classes[self.labels[index]]

    def image(self, index: int, window: tuple[int, int] | None = None) -> Image.Image:
        """Image `index`, decoded as the service decodes it: RGB, upright, uncropped.

        Args:
            window: of 16-bit images, as in `Preprocessing`.

        Raises:
            ImageFault: it is broken.
            OSError: the file cannot be read.
        """
        opened = open_image(self.read(index), MAX_PIXELS)
        upright = ORIENTATIONS[opened.layout.orientation].turn_image(load_pixels(opened, window))
        # `convert` copies an RGB image, too: the opened one would keep its file in memory.
        return flatten_on_white(upright).convert("RGB")


class Data(NamedTuple):
    """The parts of a data set, with the same classes in the same order.

    Attributes:
        val: what the best weights are chosen by.
        test: what they are measured on once, at the end; None if the data set has no such part.
    """

    train: Dataset
    val: Dataset
    test: Dataset | None = None

    @property
    def parts(self) -> tuple[Dataset, ...]:
        """The parts that there are."""
        return (self.train, self.val) if self.test is None else (self.train, self.val, self.test)

    @property
    def held_out(self) -> Dataset:
        """The images that had no part in training: the test part if there is one, else the validation part."""
        return self.val if self.test is None else self.test


def describe_fault(error: ImageFault | OSError) -> str:
    """Why an image cannot be read, as part of a sentence: "No such file or directory"."""
    if isinstance(error, OSError):
        return error.strerror or str(error)
    return str(error).rstrip(".")


@contextmanager
def explain_unreadable(dataset: Dataset, index: int, remedy: str = "replace it or leave it out") -> Iterator[None]:
    """Reports an image that cannot be read as an `InputError` with its title, the fault and a remedy.

    Raises:
        InputError: the body raised `ImageFault` or `OSError`.
    """
    try:
        yield
    except (ImageFault, OSError) as error:
        raise InputError(f"{dataset.title(index)} cannot be used: {describe_fault(error)}: {remedy}") from error
