"""The resize on a GPU: its program, compiled for the processor, makes the pixels of `resizing`."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from service.runtime.gpu import resampling
from service.runtime.gpu.resampling import GpuImage, GpuResampler, axes_of
from service.runtime.images.resizing import COMPILED, resize_to_array, view_of
from service.runtime.preprocessing import Interpolation, Preprocessing

pytestmark = [
    pytest.mark.skipif(not COMPILED, reason="the resize is not compiled"),
    pytest.mark.skipif(shutil.which("c++") is None, reason="needs a C++ compiler"),
]

# CUDA's words for a processor: every block has one thread.
ON_A_PROCESSOR = """
struct Position { int x, y, z; };
static Position blockIdx, blockDim = {1, 1, 1}, threadIdx = {0, 0, 0};
#define __device__ static
#define __global__
#include "resample.cu"
extern "C" void run(const Image *images, int count, int size) {
    for (blockIdx.z = 0; blockIdx.z < count; blockIdx.z++)
        for (blockIdx.y = 0; blockIdx.y < size; blockIdx.y++)
            for (blockIdx.x = 0; blockIdx.x < size; blockIdx.x++) resample(images, size);
}
"""


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    folder = tmp_path_factory.mktemp("program")
    source, library = folder / "program.cpp", folder / "program.so"
    source.write_text(ON_A_PROCESSOR)
    include = Path(resampling.__file__).parent
    subprocess.run(["c++", "-O2", "-shared", "-fPIC", f"-I{include}", source, "-o", library], check=True)
    return ctypes.CDLL(str(library))


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "lanczos"])
def test_pixels_are_those_of_the_processor(program: ctypes.CDLL, interpolation: Interpolation) -> None:
    """Of a whole batch at once: landscape, portrait, smaller than the crop, and with the vertical pass first."""
    preprocessing = Preprocessing(interpolation=interpolation)
    rng = np.random.default_rng(0)
    sizes = [(500, 375), (375, 500), (31, 33), (224, 224), (300, 1200), (2000, 1500)]
    assert [axes_of(*size, preprocessing).vertical_first for size in sizes] == [False] * 4 + [True, False]
    images = [rng.integers(0, 256, (height, width, 3), dtype=np.uint8) for width, height in sizes]
    found = np.zeros((len(images), 3, 224, 224), np.uint8)
    packed = []
    for image, result, size in zip(images, found, sizes, strict=True):
        x, y, vertical_first = axes_of(*size, preprocessing)
        addresses = (x.ctypes.data, y.ctypes.data, vertical_first, result.ctypes.data)
        packed.append((image.ctypes.data, image.strides[0], *addresses))
    program.run(ctypes.c_void_p(np.array(packed, np.int64).ctypes.data), len(images), 224)
    for image, result, size in zip(images, found, sizes, strict=True):
        expected = resize_to_array(
            Image.fromarray(image),
            view_of(size, preprocessing).box,
            (preprocessing.width, preprocessing.height),
            preprocessing.interpolation,
        )
        np.testing.assert_array_equal(result, expected)


class Host:
    """The processor's memory in the place of a GPU's, and the program on the processor."""

    def __init__(self, program: ctypes.CDLL) -> None:
        self._program = program
        self.memory = np.zeros(0, np.uint8)

    def at_least(self, size: int) -> int:
        if len(self.memory) < size:
            self.memory = np.zeros(size, np.uint8)
        return self.memory.ctypes.data

    def upload(self, address: int, data: np.ndarray) -> None:
        assert address == self.memory.ctypes.data
        self.memory[: len(data)] = data

    def launch(self, name: str, grid: tuple[int, int, int], block: object, stream: object, *arguments: int) -> None:
        assert name == "resample"
        address, size = arguments
        self._program.run(ctypes.c_void_p(address), grid[2], size)


def test_a_batch_is_packed_as_the_program_reads_it(program: ctypes.CDLL, monkeypatch: pytest.MonkeyPatch) -> None:
    """Images of one size share their axes, and a larger batch takes more memory."""
    host = Host(program)
    monkeypatch.setattr(resampling, "_program", lambda gpu: host)
    monkeypatch.setattr(resampling, "page_locked", lambda shape, gpu: np.zeros(shape, np.uint8))
    monkeypatch.setattr(resampling, "DeviceMemory", lambda gpu: host)
    preprocessing = Preprocessing()
    resampler = GpuResampler(0, preprocessing)
    rng = np.random.default_rng(0)
    for sizes in ([(50, 40)], [(500, 375), (64, 90), (500, 375)], [(70, 70), (50, 40)]):
        images = [rng.integers(0, 256, (height, width, 3), dtype=np.uint8) for width, height in sizes]
        found = np.zeros((len(images), 3, 224, 224), np.uint8)
        on_gpu = [
            GpuImage(image.ctypes.data, image.strides[0], *size, result.ctypes.data)
            for image, result, size in zip(images, found, sizes, strict=True)
        ]
        resampler.resample(on_gpu, host)  # type: ignore[arg-type]
        for image, result, size in zip(images, found, sizes, strict=True):
            expected = resize_to_array(
                Image.fromarray(image),
                view_of(size, preprocessing).box,
                (preprocessing.width, preprocessing.height),
                preprocessing.interpolation,
            )
            np.testing.assert_array_equal(result, expected)
