"""What training must know of the training set's colours: their mean, per pixel or in all, and principal components."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from model_export.datasets.base import Dataset
from model_export.progress import Progress
from model_export.training.augment import Palette
from model_export.training.loader import read_image
from service.card import Preprocessing
from service.imaging import resize_and_crop, to_array
from service.providers import usable_cores

MOST_IMAGES = 10_000  # evenly spread over the set; more change the mean by a fraction of a grey level
AT_ONCE = 64  # images in memory


class Statistics(NamedTuple):
    """Over the centre crops of (a sample of) the training set; values in 0 to 255."""

    mean_image: Tensor  # float32 (3, crop, crop)
    palette: Palette


def statistics(dataset: Dataset, preprocessing: Preprocessing, *, shown: bool = True) -> Statistics:
    """Mean image, mean colour and the colours' principal components."""
    indices = np.unique(np.linspace(0, len(dataset) - 1, min(len(dataset), MOST_IMAGES)).astype(int))
    total = np.zeros((3, preprocessing.crop, preprocessing.crop))
    products = np.zeros((3, 3))

    def pixels(index: int) -> np.ndarray:
        return to_array(resize_and_crop(read_image(dataset, index), preprocessing))

    with (
        ThreadPoolExecutor(usable_cores()) as pool,
        Progress("colours of the training set", len(indices), unit="image", shown=shown) as progress,
    ):
        for start in range(0, len(indices), AT_ONCE):
            for view in pool.map(pixels, indices[start : start + AT_ONCE].tolist()):
                total += view
                colours = view.reshape(3, -1).astype(np.float32)
                products += colours @ colours.T / colours.shape[1]
                progress.advance()
    mean_image = total / len(indices)
    mean = mean_image.mean(axis=(1, 2))
    variances, axes = np.linalg.eigh(products / len(indices) - np.outer(mean, mean))
    components = axes * np.sqrt(np.clip(variances, 0, None))
    return Statistics(torch.from_numpy(mean_image).float(), Palette(mean, components))
