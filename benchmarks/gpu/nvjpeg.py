"""`GpuDecoder` on nvJPEG itself, with one call for a whole batch: a trial beside nvImageCodec.

nvImageCodec's Python module lets go of Python's lock about ten times for each image, and gets it back only when the
other threads let go of it. This makes three calls for a batch. Never run yet: it was written where no GPU was at hand,
after nvjpeg.h (nvidia-nvjpeg 13.3) and after the calls that nvImageCodec makes.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

import numpy as np

from service.runtime.gpu.memory import CudaError, DeviceMemory, Stream, use
from service.runtime.gpu.resampling import GpuImage, GpuResampler
from service.runtime.images.encoded import EncodedJpeg
from service.runtime.preprocessing import Preprocessing

CHANNELS = 3
MOST_COMPONENTS = 4  # NVJPEG_MAX_COMPONENT
HARDWARE = 3  # NVJPEG_BACKEND_HARDWARE: the JPEG engines
INTERPOLATED = 1 << 5  # NVJPEG_FLAGS_UPSAMPLING_WITH_INTERPOLATION, as libjpeg-turbo does
RGBI = 5  # NVJPEG_OUTPUT_RGBI: row after row, three channels beside each other
CSS_444 = 0  # NVJPEG_CSS_444
CPU_THREADS = 1  # those of nvJPEG, which the JPEG engines do not need


class Destination(ctypes.Structure):
    """nvjpegImage_t."""

    _fields_ = (
        ("channel", ctypes.c_void_p * MOST_COMPONENTS),
        ("pitch", ctypes.c_size_t * MOST_COMPONENTS),
    )


class NvjpegDecoder:
    """Decodes, resizes and crops JPEGs on one GPU. For one thread."""

    def __init__(self, gpu: int, preprocessing: Preprocessing) -> None:
        """Raises CudaError, and OSError without libnvjpeg."""
        self._library = ctypes.CDLL("libnvjpeg.so.13")
        self._handle, self._state = ctypes.c_void_p(), ctypes.c_void_p()
        use(gpu)
        self._call("nvjpegCreateEx", HARDWARE, None, None, ctypes.c_uint(INTERPOLATED), ctypes.byref(self._handle))
        self._call("nvjpegJpegStateCreate", self._handle, ctypes.byref(self._state))
        # so that nvJPEG keeps its memory from batch to batch
        self._call("nvjpegDecodeBatchedPreAllocate", self._handle, self._state, 1, 1, 1, CSS_444, RGBI)
        self._stream = Stream(gpu)
        self._resampler = GpuResampler(gpu, preprocessing)
        self._pixels = DeviceMemory(gpu)

    def decode(self, jpegs: Sequence[EncodedJpeg], results: Sequence[int]) -> list[bool]:
        """As `GpuDecoder.decode`."""
        decoded = [True] * len(jpegs)
        sizes = [CHANNELS * jpeg.width * jpeg.height for jpeg in jpegs]
        ends = np.cumsum(sizes).tolist()
        base = self._pixels.at_least(ends[-1])
        addresses = [base + end - size for end, size in zip(ends, sizes, strict=True)]
        try:
            self._decode(jpegs, addresses)
        except CudaError:
            if len(jpegs) == 1:
                return [False]
            # one bad file fails the call for all of them
            for number, jpeg in enumerate(jpegs):
                try:
                    self._decode([jpeg], [addresses[number]])
                except CudaError:
                    decoded[number] = False
        found = [
            GpuImage(address, CHANNELS * jpeg.width, jpeg.width, jpeg.height, result)
            for address, jpeg, result, good in zip(addresses, jpegs, results, decoded, strict=True)
            if good
        ]
        if found:
            self._resampler.resample(found, self._stream)
            self._stream.wait()
        return decoded

    def _decode(self, jpegs: Sequence[EncodedJpeg], addresses: Sequence[int]) -> None:
        """Puts the pixels where the addresses say, once the stream comes to it. Raises CudaError if one is bad."""
        count = len(jpegs)
        files = [bytes(jpeg.data) for jpeg in jpegs]
        data = (ctypes.c_char_p * count)(*files)
        lengths = (ctypes.c_size_t * count)(*map(len, files))
        destinations = (Destination * count)()
        for destination, address, jpeg in zip(destinations, addresses, jpegs, strict=True):
            destination.channel[0] = address
            destination.pitch[0] = CHANNELS * jpeg.width
        self._call("nvjpegDecodeBatchedInitialize", self._handle, self._state, count, CPU_THREADS, RGBI)
        self._call("nvjpegDecodeBatched", self._handle, self._state, data, lengths, destinations, self._stream.handle)

    def _call(self, name: str, *arguments: object) -> None:
        if status := getattr(self._library, name)(*arguments):
            raise CudaError(f"{name} failed with status {status} (nvjpegStatus_t)")
