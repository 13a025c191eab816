"""`resizing.resize_to_array` for images that lie on a GPU: the same pixels, bit for bit."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from importlib import resources
from typing import NamedTuple

import numpy as np

from service.runtime.gpu.memory import DeviceMemory, Stream, page_locked
from service.runtime.gpu.program import Program
from service.runtime.images.resizing import axis_weights, view_of
from service.runtime.preprocessing import Preprocessing

BLOCK = (32, 8, 1)


class GpuImage(NamedTuple):
    """Decoded pixels on a GPU.

    Attributes:
        address: of uint8 `(height, width, 3)`, RGB.
        stride: bytes from row to row.
        result: address of uint8 `(3, crop, crop)`, to be written.
    """

    address: int
    stride: int
    width: int
    height: int
    result: int


class Axes(NamedTuple):
    """How an image of one size is resampled.

    Attributes:
        x, y: int32, as `axis_weights` returns them.
    """

    x: np.ndarray
    y: np.ndarray
    vertical_first: bool


class GpuResampler:
    """Resizes batches of images and cuts out their centres. For one thread."""

    def __init__(self, gpu: int, preprocessing: Preprocessing) -> None:
        """Raises CudaError."""
        self._gpu = gpu
        self._preprocessing = preprocessing
        self._program = _program(gpu)
        self._on_host = page_locked((1,), gpu)
        self._on_gpu = DeviceMemory(gpu)

    def resample(self, images: Sequence[GpuImage], stream: Stream) -> None:
        """Puts the work into a stream. The next call must not come before the stream has done it. Raises CudaError."""
        sizes = dict.fromkeys((image.width, image.height) for image in images)
        axes = {size: axes_of(*size, self._preprocessing) for size in sizes}
        tables = [table for each in axes.values() for table in (each.x, each.y)]
        offsets = np.cumsum([0, 48 * len(images), *(table.nbytes for table in tables)]).tolist()
        address = self._on_gpu.at_least(offsets[-1])
        tables_at = dict(zip(axes, zip(offsets[1::2], offsets[2::2], strict=False), strict=False))
        packed = np.array(
            [
                (
                    image.address,
                    image.stride,
                    *(address + offset for offset in tables_at[image.width, image.height]),
                    axes[image.width, image.height].vertical_first,
                    image.result,
                )
                for image in images
            ],
            np.int64,
        )
        if self._on_host.size < offsets[-1]:
            self._on_host = page_locked((2 * offsets[-1],), self._gpu)
        for start, part in zip(offsets, (packed, *tables), strict=False):
            self._on_host[start : start + part.nbytes] = part.view(np.uint8).reshape(-1)
        stream.upload(address, self._on_host[: offsets[-1]])
        crop = self._preprocessing.height  # a square
        grid = (-(-crop // BLOCK[0]), -(-crop // BLOCK[1]), len(images))
        self._program.launch("resample", grid, BLOCK, stream, address, crop)


@functools.lru_cache(128)
def axes_of(width: int, height: int, preprocessing: Preprocessing) -> Axes:
    """How an image of this size becomes the network's input."""
    crop, interpolation = preprocessing.height, preprocessing.interpolation
    left, top, right, bottom = view_of((width, height), preprocessing).box
    x = axis_weights(interpolation, width, left, right, crop)
    y = axis_weights(interpolation, height, top, bottom, crop)
    return Axes(x, y, vertical_first=height > crop and height - crop > 2 * (width - crop))


@functools.cache
def _program(gpu: int) -> Program:
    source = resources.files("service.runtime.gpu").joinpath("resample.cu").read_text()
    return Program(source, gpu)
