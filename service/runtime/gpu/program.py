"""A CUDA C++ program, compiled for the GPU at hand by NVRTC, which ONNX Runtime's cuDNN needs too."""

from __future__ import annotations

import ctypes

import onnxruntime as ort

from service.runtime import cuda
from service.runtime.gpu import memory
from service.runtime.gpu.memory import CudaError, Stream

MAJOR, MINOR = 75, 76  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_*


class Program:
    """A compiled program, loaded on one GPU."""

    def __init__(self, source: str, gpu: int) -> None:
        """Raises CudaError: NVRTC is missing, or the program does not compile; the message has the compiler's words."""
        self._driver = ctypes.CDLL(cuda.DRIVER_LIBRARY)
        memory.use(gpu)
        memory.call("cudaFree", None)  # creates the GPU's context, if nothing else has
        binary = _compiled(source, self._architecture(gpu))
        self._module = ctypes.c_void_p()
        self._call("cuModuleLoadData", ctypes.byref(self._module), binary)

    def launch(
        self, name: str, grid: tuple[int, int, int], block: tuple[int, int, int], stream: Stream, *arguments: int
    ) -> None:
        """Puts a kernel into a stream. Its arguments are 64-bit integers and addresses. Raises CudaError."""
        function = ctypes.c_void_p()
        self._call("cuModuleGetFunction", ctypes.byref(function), self._module, name.encode())
        values = [ctypes.c_int64(argument) for argument in arguments]
        pointers = (ctypes.c_void_p * len(values))(*(ctypes.addressof(value) for value in values))
        self._call("cuLaunchKernel", function, *grid, *block, 0, stream.handle, pointers, None)

    def _architecture(self, gpu: int) -> str:
        numbers = []
        for attribute in (MAJOR, MINOR):
            number = ctypes.c_int()
            self._call("cuDeviceGetAttribute", ctypes.byref(number), attribute, gpu)
            numbers.append(str(number.value))
        return f"sm_{''.join(numbers)}"

    def _call(self, name: str, *arguments: object) -> None:
        if result := getattr(self._driver, name)(*arguments):
            raise CudaError(f"{name} failed: CUDA error {result}")


def _compiled(source: str, architecture: str) -> bytes:
    """The program's machine code."""
    major = ort.cuda_version.partition(".")[0]
    try:
        nvrtc = ctypes.CDLL(f"libnvrtc.so.{major}")
    except OSError as error:
        raise CudaError(f"libnvrtc.so.{major} does not load: {error}") from error
    program = ctypes.c_void_p()

    def call(name: str, *arguments: object) -> int:
        return int(getattr(nvrtc, name)(*arguments))

    def read(size_name: str, name: str) -> bytes:
        size = ctypes.c_size_t()
        call(size_name, program, ctypes.byref(size))
        content = ctypes.create_string_buffer(size.value)
        call(name, program, content)
        return content.raw

    if call("nvrtcCreateProgram", ctypes.byref(program), source.encode(), b"resnet.cu", 0, None, None):
        raise CudaError("NVRTC does not start")
    try:
        options = (ctypes.c_char_p * 1)(f"--gpu-architecture={architecture}".encode())
        if call("nvrtcCompileProgram", program, len(options), options):
            log = read("nvrtcGetProgramLogSize", "nvrtcGetProgramLog").rstrip(b"\0")
            raise CudaError(f"the program does not compile for {architecture}: {log.decode(errors='replace')}")
        return read("nvrtcGetCUBINSize", "nvrtcGetCUBIN")
    finally:
        nvrtc.nvrtcDestroyProgram(ctypes.byref(program))
