"""Images of one size, decoded once and held in memory, for pictures that cost more to read than to train on."""

from __future__ import annotations

import hashlib
import io
from multiprocessing.pool import ThreadPool

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from model_export.datasets.base import Dataset
from model_export.errors import InputError
from service.runtime.machine import usable_cores
from service.runtime.progress import Progress


class InMemory(Dataset):
    """Decoded images, in one tensor: PyTorch shares it with loader workers instead of copying it to each.

    Args:
        images: uint8 (N, H, W, 3), RGB.
        labels: int64 (N,), indices into `classes`.
    """

    def __init__(self, name: str, classes: tuple[str, ...], images: Tensor, labels: np.ndarray) -> None:
        self.name, self.classes, self.images, self.labels = name, classes, images, labels

    @classmethod
    def of(cls, dataset: Dataset, *, shown: bool = True) -> InMemory:
        """A data set with every image decoded now.

        Args:
            shown: whether progress is shown.

        Raises:
            InputError: the images differ in size.
            ImageFault: one is broken.
            OSError: one cannot be read.
        """
        width, height = dataset.image(0).size
        images = torch.empty((len(dataset), height, width, 3), dtype=torch.uint8)

        def decode(index: int) -> None:
            image = dataset.image(index)
            if image.size != (width, height):
                raise InputError(
                    f"{dataset.name} cannot be held in memory, because its images differ in size: {dataset.title(0)} "
                    f"has {width}x{height} pixels, {dataset.title(index)} {image.width}x{image.height}: resize them to "
                    "one size"
                )
            images[index] = torch.from_numpy(np.array(image))

        with (
            ThreadPool(usable_cores()) as pool,
            Progress(f"{dataset.name}: decoding", len(dataset), shown=shown) as progress,
        ):
            for _ in pool.imap(decode, range(len(dataset)), chunksize=16):
                progress.advance()
        return cls(dataset.name, dataset.classes, images, dataset.labels)

    def read(self, index: int) -> bytes:
        """The image as a PNG file, which keeps every pixel as it is."""
        file = io.BytesIO()
        self.image(index).save(file, "PNG")
        return file.getvalue()

    def title(self, index: int) -> str:
        return f"{self.name}, number {index}"

    def digest(self, indices: np.ndarray | None = None) -> str:
        """Of classes, labels and pixels: the images have no files."""
        chosen = slice(None) if indices is None else indices
        labels, images = self.labels[chosen], self.images[chosen]
        digest = hashlib.sha256(repr((self.classes, tuple(images.shape))).encode())
        digest.update(labels.astype("<i8").tobytes())
        digest.update(images.contiguous().numpy().data)
        return digest.hexdigest()

    def image(self, index: int, window: tuple[int, int] | None = None) -> Image.Image:
        return Image.fromarray(self.images[index].numpy())
