"""NVIDIA's driver, the GPUs it shows, and the CUDA libraries that ONNX Runtime loads: what there is, what is missing.

The driver itself is asked, through the CUDA driver API (libcuda). It heeds `CUDA_VISIBLE_DEVICES`, as ONNX Runtime
does, and creates nothing on the GPU.
"""

from __future__ import annotations

import contextlib
import ctypes
import io
import re
from pathlib import Path
from typing import NamedTuple
from uuid import UUID

import onnxruntime as ort

DRIVER = "libcuda.so.1"

# The oldest driver for each major version of CUDA (NVIDIA's CUDA compatibility guide, "minor version compatibility").
DRIVERS = {12: 525, 13: 580}

# What the CUDA provider needs for convolutions, besides the driver. cuDNN it opens by itself, when it first needs it.
LIBRARIES = ("libcudart.so.{cuda}", "libcublasLt.so.{cuda}", "libcublas.so.{cuda}", "libcurand.so.10", "libcudnn.so.9")


class CudaMissing(Exception):
    """CUDA cannot be used here; the message names what is missing and the remedy."""


class Gpu(NamedTuple):
    """One GPU, as the driver describes it."""

    name: str
    uuid: str
    memory_bytes: int
    cuda: str  # the newest version that the driver supports, such as 13.0


def probe(number: int, cuda: int) -> Gpu:
    """The GPU of this number, once everything that ONNX Runtime needs for it has been found.

    Args:
        number: counted from 0 among those that can be seen.
        cuda: the major version of CUDA that ONNX Runtime is built with.

    Raises:
        CudaMissing: the first thing that is missing.
    """
    gpu = _Driver(cuda).gpu(number)
    load_libraries(cuda)
    return gpu


def load_libraries(cuda: int) -> None:
    """Loads CUDA and cuDNN, from the nvidia-* wheels where they are installed, else from where the system looks.

    Args:
        cuda: the major version.

    Raises:
        CudaMissing: one does not load.
    """
    with contextlib.redirect_stdout(io.StringIO()):  # it prints what fails; the loop below says it better
        ort.preload_dlls()
    for pattern in LIBRARIES:
        name = pattern.format(cuda=cuda)
        try:
            ctypes.CDLL(name)
        except OSError as error:
            raise CudaMissing(
                f"{name} does not load ({error}): install `onnxruntime-gpu[cuda,cudnn]`, which brings it, or CUDA "
                f"{cuda} and cuDNN 9 where the system looks for libraries"
            ) from error


def provider_fault() -> str | None:
    """Why ONNX Runtime's own CUDA library does not load; None where it does.

    Ask this after a session has failed: ONNX Runtime logs the reason but does not raise it.
    """
    library = Path(ort.__file__).parent / "capi" / "libonnxruntime_providers_cuda.so"
    try:
        ctypes.CDLL(str(library))
    except OSError as error:
        return str(error)
    return None


def cudnn_version() -> str:
    """Of the library that is loaded. Raises CudaMissing where there is none."""
    try:
        version: int = ctypes.CDLL("libcudnn.so.9").cudnnGetVersion()
    except OSError as error:
        raise CudaMissing(str(error)) from error
    return str(version)


def driver_version() -> str:
    """Of the kernel's driver, such as 580.159.04; empty where the system does not tell."""
    try:
        found = re.search(r"\b\d+\.[\d.]+", Path("/proc/driver/nvidia/version").read_text())
    except OSError:
        return ""
    return found[0] if found else ""


class _Driver:
    """libcuda, initialised. Raises CudaMissing where it cannot be."""

    def __init__(self, needed: int) -> None:
        """`needed` is the major version of CUDA that the driver must support."""
        try:
            self._library = ctypes.CDLL(DRIVER)
        except OSError as error:
            raise CudaMissing(
                f"no NVIDIA driver is visible ({error}): in a container, start it with `--gpus all`"
            ) from error
        version = ctypes.c_int()
        self._call("cuDriverGetVersion", ctypes.byref(version))
        self._version = f"{version.value // 1000}.{version.value % 1000 // 10}"
        if version.value // 1000 < needed:
            raise CudaMissing(
                f"the NVIDIA driver supports CUDA {self._version}, and this onnxruntime needs {needed}: install driver "
                f"{DRIVERS.get(needed, 'for that version')} or later"
            )
        self._call("cuInit", 0)

    def gpu(self, number: int) -> Gpu:
        count = ctypes.c_int()
        self._call("cuDeviceGetCount", ctypes.byref(count))
        if number >= count.value:
            raise CudaMissing(
                f"there is no GPU {number}: {count.value} can be seen, counted from 0 (CUDA_VISIBLE_DEVICES and the "
                "container's settings say which)"
            )
        device = ctypes.c_int()
        self._call("cuDeviceGet", ctypes.byref(device), number)
        name = ctypes.create_string_buffer(256)
        self._call("cuDeviceGetName", name, len(name), device)
        uuid = ctypes.create_string_buffer(16)
        self._call("cuDeviceGetUuid_v2", uuid, device)
        memory = ctypes.c_size_t()
        self._call("cuDeviceTotalMem_v2", ctypes.byref(memory), device)
        return Gpu(name.value.decode(), f"GPU-{UUID(bytes=uuid.raw)}", memory.value, self._version)

    def _call(self, function: str, *arguments: object) -> None:
        status = getattr(self._library, function)(*arguments)
        if status:
            meaning = ctypes.c_char_p()
            self._library.cuGetErrorString(status, ctypes.byref(meaning))
            reason = meaning.value.decode() if meaning.value else "unknown error"
            raise CudaMissing(f"the NVIDIA driver fails: {function}: {reason} (CUDA error {status})")
