"""Images of one size, decoded once and held in memory: where reading a picture again would cost more than using it."""

from __future__ import annotations

import io
from multiprocessing.pool import ThreadPool

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from model_export.datasets.base import Dataset
from model_export.errors import InputError
from model_export.progress import Progress
from service.providers import usable_cores


class InMemory(Dataset):
    """Decoded images.

    They are a tensor, which PyTorch hands to loader workers as shared memory, not as a copy each.

    Args:
        images: uint8 (N, H, W, 3), RGB.
        labels: int64 (N,), indices into `classes`.
    """

    def __init__(self, name: str, classes: tuple[str, ...], images: Tensor, labels: np.ndarray) -> None:
        self.name, self.classes, self.images, self.labels = name, classes, images, labels

    def read(self, index: int) -> bytes:
        """The image as a PNG file: not a pixel changes."""
        file = io.BytesIO()
        self.image(index).save(file, "PNG")
        return file.getvalue()

    def title(self, index: int) -> str:
        return f"{self.name}, number {index}"

    def image(self, index: int) -> Image.Image:
        return Image.fromarray(self.images[index].numpy())


def in_memory(dataset: Dataset, *, shown: bool = True) -> InMemory:
    """The same data set, every image decoded now.

    Raises:
        InputError: the images are not all of one size.
        ImageProblem: one is broken.
        OSError: one cannot be read.
    """
    width, height = dataset.image(0).size
    images = torch.empty((len(dataset), height, width, 3), dtype=torch.uint8)

    def decode(index: int) -> None:
        image = dataset.image(index)
        if image.size != (width, height):
            raise InputError(
                f"{dataset.name} cannot be held in memory, because its images differ in size: {dataset.title(0)} has "
                f"{width}x{height} pixels, {dataset.title(index)} {image.width}x{image.height}: resize them to one size"
            )
        images[index] = torch.from_numpy(np.array(image))

    with (
        ThreadPool(usable_cores()) as pool,
        Progress(f"{dataset.name}: decoding", len(dataset), shown=shown) as progress,
    ):
        for _ in pool.imap(decode, range(len(dataset)), chunksize=16):
            progress.advance()
    return InMemory(dataset.name, dataset.classes, images, dataset.labels)
