"""The images for calibration and for the gate, decoded as the service does."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from model_export.datasets.base import MAX_PIXELS, Data, Dataset, explain_unreadable
from model_export.datasets.by_name import is_folder, open_data
from model_export.datasets.image_folder import open_unlabelled
from model_export.datasets.layout import AUTO, Layout
from model_export.datasets.subset import Subset
from service.runtime.images.decoding import decode
from service.runtime.machine import usable_cores
from service.runtime.preprocessing import Preprocessing


def sample(dataset: Dataset, count: int, *, skip: int = 0) -> Subset:
    """At most `count` random images, without repetition: always the same ones for a data set of this size.

    Random, because folders are sorted by class and drawings cycle through the classes.

    Args:
        skip: images at the head of the random order to pass over; those that an earlier sample took.
    """
    order = np.random.default_rng(0).permutation(len(dataset))
    return Subset(dataset, order[skip : skip + count])


def open_calibration_data(spec: str, layout: Layout = AUTO) -> Data:
    """Images to calibrate on (`train`) and others for the gate (`val`).

    A folder with images directly in it has no labels: its two halves have no `classes`. Anything else is opened and
    split as for training; the gate takes the test part if there is one, else the validation part.

    Args:
        spec: a folder of images, or any other `spec` of `open_data`.
        layout: of a folder.

    Raises:
        InputError, Unavailable: as `open_data`.
    """
    if is_folder(spec) and (unlabelled := open_unlabelled(Path(spec), layout)):
        half = len(unlabelled) // 2
        return Data(sample(unlabelled, half), sample(unlabelled, len(unlabelled), skip=half))
    data = open_data(spec, layout=layout)
    return Data(data.train, data.held_out)


def batches(dataset: Dataset, preprocessing: Preprocessing, size: int) -> Iterator[np.ndarray]:
    """Every image of a data set, decoded and cropped: uint8 (at most `size`, channels, height, width).

    Raises:
        InputError: an image is broken or missing.
    """

    def pixels(index: int) -> np.ndarray:
        with explain_unreadable(dataset, index):
            return decode(dataset.read(index), preprocessing, max_pixels=MAX_PIXELS).pixels

    with ThreadPoolExecutor(usable_cores(), thread_name_prefix="decode") as pool:
        for start in range(0, len(dataset), size):
            yield np.stack(list(pool.map(pixels, range(start, min(start + size, len(dataset))))))
