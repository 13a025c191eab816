"""The calls of CUDA's runtime that ONNX Runtime's Python lacks: page-locked memory, and streams."""

from __future__ import annotations

import ctypes
import functools
import weakref
from collections.abc import Sequence

import numpy as np
import onnxruntime as ort

NON_BLOCKING = 1  # cudaStreamNonBlocking: does not wait for the default stream
HOST_TO_DEVICE = 1  # cudaMemcpyHostToDevice


class CudaError(Exception):
    """A call of CUDA's runtime failed; the message has its name and CUDA's own words."""


def page_locked(shape: Sequence[int], gpu: int) -> np.ndarray:
    """Zeros, uint8, in memory that the GPU reads by itself, faster than other memory.

    Raises:
        CudaError: there is not enough memory.
    """
    size = int(np.prod(shape))
    pointer = ctypes.c_void_p()
    use(gpu)
    call("cudaHostAlloc", ctypes.byref(pointer), ctypes.c_size_t(size), 0)
    memory = (ctypes.c_uint8 * size).from_address(pointer.value or 0)
    weakref.finalize(memory, _runtime().cudaFreeHost, pointer)  # the array holds it
    array: np.ndarray = np.ctypeslib.as_array(memory).reshape(shape)
    array[:] = 0
    return array


class Stream:
    """A CUDA stream of its own, for one thread."""

    def __init__(self, gpu: int) -> None:
        """Raises CudaError."""
        self.handle = ctypes.c_void_p()
        use(gpu)
        call("cudaStreamCreateWithFlags", ctypes.byref(self.handle), NON_BLOCKING)
        weakref.finalize(self, _runtime().cudaStreamDestroy, self.handle)

    def upload(self, address: int, data: np.ndarray) -> None:
        """Copies contiguous data to an address on the GPU, without waiting for the copy. Raises CudaError."""
        source, size = ctypes.c_void_p(data.ctypes.data), ctypes.c_size_t(data.nbytes)
        call("cudaMemcpyAsync", ctypes.c_void_p(address), source, size, HOST_TO_DEVICE, self.handle)

    def wait(self) -> None:
        """Waits for everything in the stream. Raises CudaError."""
        call("cudaStreamSynchronize", self.handle)


class DeviceMemory:
    """Memory on a GPU that grows as needed."""

    def __init__(self, gpu: int) -> None:
        self._gpu = gpu
        self._value: ort.OrtValue | None = None
        self.size = 0  # bytes

    def at_least(self, size: int) -> int:
        """The address of so many bytes; what was there before is lost when it grows."""
        if self._value is None or self.size < size:
            self.size = max(size, 2 * self.size)
            self._value = ort.OrtValue.ortvalue_from_shape_and_type((self.size,), np.uint8, "cuda", self._gpu)
        return int(self._value.data_ptr())


def use(gpu: int) -> None:
    """Makes a GPU that of the calling thread. Raises CudaError."""
    call("cudaSetDevice", gpu)


def call(name: str, *arguments: object) -> None:
    """Calls a function of CUDA's runtime. Raises CudaError."""
    runtime = _runtime()
    if result := getattr(runtime, name)(*arguments):
        raise CudaError(f"{name} failed: {runtime.cudaGetErrorString(result).decode()}")


@functools.cache
def _runtime() -> ctypes.CDLL:
    """libcudart, which `cuda.probe` has loaded."""
    library = ctypes.CDLL(f"libcudart.so.{ort.cuda_version.partition('.')[0]}")
    library.cudaGetErrorString.restype = ctypes.c_char_p
    return library
