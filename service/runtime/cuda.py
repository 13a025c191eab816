"""Probes the NVIDIA driver, the GPUs and the CUDA libraries, and names what ONNX Runtime lacks.

Asks the CUDA driver API (libcuda), which honours `CUDA_VISIBLE_DEVICES` as ONNX Runtime does. Creates no context on
the GPU.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import io
import logging
import re
from pathlib import Path
from typing import NamedTuple
from uuid import UUID

import onnxruntime as ort

log = logging.getLogger(__name__)

PROVIDER = "CUDAExecutionProvider"

DRIVER_LIBRARY = "libcuda.so.1"

BLOCKING_SYNC = 4  # CU_CTX_SCHED_BLOCKING_SYNC
PRIMARY_CONTEXT_ACTIVE = 708  # CUDA_ERROR_PRIMARY_CONTEXT_ACTIVE

# The oldest driver for each major version of CUDA (NVIDIA's CUDA compatibility guide, "minor version compatibility").
OLDEST_DRIVER = {12: 525, 13: 580}

# What the CUDA provider needs for convolutions, besides the driver. The provider opens cuDNN itself, on first use.
LIBRARIES = ("libcudart.so.{cuda}", "libcublasLt.so.{cuda}", "libcublas.so.{cuda}", "libcurand.so.10", "libcudnn.so.9")


class CudaMissing(Exception):
    """CUDA cannot be used here. The message names what is missing and the remedy."""


class Gpu(NamedTuple):
    """One GPU, as the driver describes it."""

    name: str
    uuid: str
    memory_bytes: int
    cuda: str  # the newest CUDA version that the driver supports, such as 13.0


@functools.cache
def probe(number: int) -> Gpu:
    """Describes a GPU, after checking that ONNX Runtime has everything it needs to use it.

    Args:
        number: counts the visible GPUs, from 0.

    Raises:
        CudaMissing: names the first thing that is missing.
    """
    if PROVIDER not in ort.get_available_providers():
        raise CudaMissing(
            "this onnxruntime is built without CUDA: install the `cuda` extra (onnxruntime-gpu) instead of `cpu`"
        )
    major = int(ort.cuda_version.partition(".")[0])
    gpu = _Driver(major).gpu(number)
    load_libraries(major)
    return gpu


@functools.cache
def wait_asleep(number: int) -> None:
    """Lets threads sleep while they wait for the GPU, from the first use of the GPU on in this process.

    By default they spin: two lanes took a core from the threads that decode. Asleep they take half of it; the engine
    loses 5 % of its speed.

    Args:
        number: as for `probe`.
    """
    try:
        _Driver(int(ort.cuda_version.partition(".")[0])).wait_asleep(number)
    except CudaMissing as error:
        log.warning("threads will spin while they wait for GPU %d: %s", number, error)


def load_libraries(major: int) -> None:
    """Loads CUDA and cuDNN: from the nvidia-* wheels if installed, else from the system's library path.

    Args:
        major: the major version of CUDA.

    Raises:
        CudaMissing: a library does not load.
    """
    with contextlib.redirect_stdout(io.StringIO()):  # it prints what does not load; the loop below raises it
        ort.preload_dlls()
    for pattern in LIBRARIES:
        name = pattern.format(cuda=major)
        try:
            ctypes.CDLL(name)
        except OSError as error:
            raise CudaMissing(
                f"{name} does not load ({error}): install `onnxruntime-gpu[cuda,cudnn]`, which brings it, or install "
                f"CUDA {major} and cuDNN 9 on the system's library path"
            ) from error


def provider_fault() -> str | None:
    """Why ONNX Runtime's own CUDA library does not load; None if it does.

    For use after a session has failed: ONNX Runtime logs this reason, but does not raise it.
    """
    library = Path(ort.__file__).parent / "capi" / "libonnxruntime_providers_cuda.so"
    try:
        ctypes.CDLL(str(library))
    except OSError as error:
        return str(error)
    return None


def cudnn_version() -> str:
    """The version of the loaded cuDNN. Raises CudaMissing if there is none."""
    try:
        version: int = ctypes.CDLL("libcudnn.so.9").cudnnGetVersion()
    except OSError as error:
        raise CudaMissing(str(error)) from error
    return str(version)


def driver_version() -> str:
    """The version of the kernel driver, such as 580.159.04; empty if it cannot be read."""
    try:
        match = re.search(r"\b\d+\.[\d.]+", Path("/proc/driver/nvidia/version").read_text())
    except OSError:
        return ""
    return match[0] if match else ""


class _Driver:
    """libcuda, loaded and initialised."""

    def __init__(self, major: int) -> None:
        """Raises CudaMissing unless there is a driver that supports this major version of CUDA."""
        try:
            self._library = ctypes.CDLL(DRIVER_LIBRARY)
        except OSError as error:
            raise CudaMissing(
                f"no NVIDIA driver is visible ({error}): in a container, start it with `--gpus all`"
            ) from error
        version = ctypes.c_int()
        self._call("cuDriverGetVersion", ctypes.byref(version))
        self._version = f"{version.value // 1000}.{version.value % 1000 // 10}"
        if version.value // 1000 < major:
            raise CudaMissing(
                f"the NVIDIA driver supports CUDA {self._version}, but this onnxruntime needs CUDA {major}: install "
                f"driver {OLDEST_DRIVER.get(major, 'for that version')} or later"
            )
        self._call("cuInit", 0)

    def gpu(self, number: int) -> Gpu:
        count = ctypes.c_int()
        self._call("cuDeviceGetCount", ctypes.byref(count))
        if number >= count.value:
            raise CudaMissing(
                f"there is no GPU {number}: {count.value} visible, counted from 0 (CUDA_VISIBLE_DEVICES and the "
                "container's settings choose them)"
            )
        device = self._device(number)
        name = ctypes.create_string_buffer(256)
        self._call("cuDeviceGetName", name, len(name), device)
        uuid = ctypes.create_string_buffer(16)
        self._call("cuDeviceGetUuid_v2", uuid, device)
        memory = ctypes.c_size_t()
        self._call("cuDeviceTotalMem_v2", ctypes.byref(memory), device)
        return Gpu(name.value.decode(), f"GPU-{UUID(bytes=uuid.raw)}", memory.value, self._version)

    def wait_asleep(self, number: int) -> None:
        # If the GPU is in use already, its threads go on spinning.
        self._call("cuDevicePrimaryCtxSetFlags_v2", self._device(number), BLOCKING_SYNC, but=PRIMARY_CONTEXT_ACTIVE)

    def _device(self, number: int) -> ctypes.c_int:
        device = ctypes.c_int()
        self._call("cuDeviceGet", ctypes.byref(device), number)
        return device

    def _call(self, function: str, *arguments: object, but: int = 0) -> None:
        """Raises CudaMissing for any status but 0 and `but`."""
        status = getattr(self._library, function)(*arguments)
        if status not in (0, but):
            meaning = ctypes.c_char_p()
            self._library.cuGetErrorString(status, ctypes.byref(meaning))
            reason = meaning.value.decode() if meaning.value else "unknown error"
            raise CudaMissing(f"the NVIDIA driver fails: {function}: {reason} (CUDA error {status})")
