"""The images that a quantisation needs: some to calibrate on, others to be judged by, all as the service sees them."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from model_export.datasets.base import MAX_PIXELS, Data, Dataset
from model_export.datasets.folder import ImageFolder
from model_export.datasets.layout import AUTO, Layout, expanded, loose_images
from model_export.datasets.opening import is_folder, open_data
from model_export.errors import InputError
from service.card import Preprocessing
from service.errors import ImageProblem
from service.imaging import decode
from service.providers import usable_cores


class Part(Dataset):
    """Some images of a data set.

    Args:
        indices: int64 (n,), which ones.
    """

    def __init__(self, whole: Dataset, indices: np.ndarray) -> None:
        self.whole, self.indices = whole, indices
        self.name, self.classes, self.labels = whole.name, whole.classes, whole.labels[indices]

    def read(self, index: int) -> bytes:
        return self.whole.read(int(self.indices[index]))

    def title(self, index: int) -> str:
        return self.whole.title(int(self.indices[index]))


def drawn(dataset: Dataset, count: int, *, after: int = 0) -> Part:
    """At most `count` images, drawn at random and always the same ones; those drawn `after` so many others.

    At random, since folders are sorted by class, and drawings take the classes in turn.
    """
    order = np.random.default_rng(0).permutation(len(dataset))
    return Part(dataset, order[after : after + count])


def open_parts(spec: str, layout: Layout = AUTO) -> Data:
    """Images to calibrate on (`train`) and others to be judged by (`val`), of what a user names.

    Labels are told by the layout: a folder that holds images directly has none, and its parts have no `classes`; it is
    split in halves. Everything else is opened, and where it is one tree split, as in training: the network has never
    seen what it is judged by.

    Args:
        spec: a folder of images, or whatever `open_data` understands.
        layout: of a folder.

    Raises:
        InputError: as `open_data`.
        Unavailable: as `open_data`.
    """
    folder = expanded(Path(spec))
    if is_folder(spec) and folder.is_dir() and loose_images(folder, layout):
        whole = ImageFolder.open_loose(folder, layout=layout)
        half = len(whole) // 2
        return Data(drawn(whole, half), drawn(whole, len(whole), after=half))
    return open_data(spec, layout=layout)


def batches(dataset: Dataset, preprocessing: Preprocessing, size: int) -> Iterator[np.ndarray]:
    """Every image of a data set as the network gets it from the service: uint8 (at most `size`, 3, crop, crop).

    Raises:
        InputError: one is broken or has gone.
    """

    def pixels(index: int) -> np.ndarray:
        try:
            return decode(dataset.read(index), preprocessing, max_pixels=MAX_PIXELS).pixels
        except ImageProblem as problem:
            fault = str(problem).rstrip(".")
        except OSError as error:
            fault = error.strerror or str(error)
        raise InputError(f"{dataset.title(index)} cannot be used: {fault}: replace it or leave it out")

    with ThreadPoolExecutor(usable_cores(), thread_name_prefix="decode") as pool:
        for start in range(0, len(dataset), size):
            yield np.stack(list(pool.map(pixels, range(start, min(start + size, len(dataset))))))
