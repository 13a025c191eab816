"""The resize on a GPU: its program, compiled for the processor, makes the pixels of `resizing`."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from service.runtime.images import gpu_resampling
from service.runtime.images.gpu_resampling import axes_of
from service.runtime.images.resizing import COMPILED, crop_box, resize_to_array
from service.runtime.model_card import Interpolation, Preprocessing

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
    include = Path(gpu_resampling.__file__).parent
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
        expected = resize_to_array(Image.fromarray(image), crop_box(size, preprocessing), preprocessing)
        np.testing.assert_array_equal(result, expected)
