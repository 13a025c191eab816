"""The colours of a training set: mean image, mean colour and principal components."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from model_export.datasets.base import Dataset
from model_export.training.augment import Palette
from model_export.training.loader import read_image
from service.runtime.images.resizing import network_input
from service.runtime.machine import usable_cores
from service.runtime.preprocessing import Preprocessing
from service.runtime.progress import Progress

MAX_IMAGES = 10_000  # evenly spread over the set; more would change the mean by a fraction of a grey level
CHUNK = 64  # images in memory at once


class ColourStatistics(NamedTuple):
    """Over the centre crops of the training set, or of a sample of it; values in 0 to 255."""

    mean_image: Tensor  # float32 (3, height, width)
    palette: Palette


def measure_colours(dataset: Dataset, preprocessing: Preprocessing, *, shown: bool = True) -> ColourStatistics:
    """Mean image, mean colour and principal components of a training set.

    Raises:
        InputError: an image is broken or missing.
    """
    indices = np.unique(np.linspace(0, len(dataset) - 1, min(len(dataset), MAX_IMAGES)).astype(int))
    total = np.zeros((3, preprocessing.height, preprocessing.width))
    products = np.zeros((3, 3))

    def pixels(index: int) -> np.ndarray:
        image = read_image(dataset, index, preprocessing.window)
        return np.broadcast_to(network_input(image, preprocessing), total.shape)  # grey in all three channels

    with (
        ThreadPoolExecutor(usable_cores()) as pool,
        Progress("colours of the training set", len(indices), unit="image", shown=shown) as progress,
    ):
        for start in range(0, len(indices), CHUNK):
            for view in pool.map(pixels, indices[start : start + CHUNK].tolist()):
                total += view
                colours = view.reshape(3, -1).astype(np.float32)
                products += colours @ colours.T / colours.shape[1]
                progress.advance()
    mean_image = total / len(indices)
    mean = mean_image.mean(axis=(1, 2))
    variances, axes = np.linalg.eigh(products / len(indices) - np.outer(mean, mean))
    components = axes * np.sqrt(np.clip(variances, 0, None))
    return ColourStatistics(torch.from_numpy(mean_image).float(), Palette(mean, components))
