"""Decodes JPEGs on the GPU's JPEG engines, by NVIDIA's nvImageCodec, straight into a batch.

An H200 decodes 20,000 photographs of 500x375 pixels a second, to within one grey level of libjpeg-turbo's pixels
(benchmarks/results/gpu-trials.txt). The resize that follows is that of the processor, bit for bit.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from service.runtime.gpu.memory import CudaError, Stream
from service.runtime.gpu.resampling import GpuImage, GpuResampler
from service.runtime.images.encoded import EncodedJpeg
from service.runtime.images.resizing import COMPILED
from service.runtime.preprocessing import Preprocessing
from service.runtime.providers import ProviderUnavailable

if TYPE_CHECKING:
    from types import ModuleType

CHANNELS = 3


class GpuDecoder:
    """Decodes, resizes and crops JPEGs on one GPU. For one thread."""

    def __init__(self, gpu: int, preprocessing: Preprocessing) -> None:
        """Raises ProviderUnavailable, which names what is missing and the remedy."""
        require()
        self._codec = _nvimagecodec()
        try:
            self._decoder = self._new_decoder(gpu)
            self._stream = Stream(gpu)
            self._resampler = GpuResampler(gpu, preprocessing)
        except CudaError as error:
            raise ProviderUnavailable(f"the resize on the GPU does not start: {error}") from error
        except RuntimeError as error:
            raise ProviderUnavailable(
                f"nvImageCodec does not start ({error}): it takes a GPU with JPEG engines, such as A100, H100 or L4, "
                "and libnvjpeg (nvidia-nvjpeg)"
            ) from error

    def decode(self, jpegs: Sequence[EncodedJpeg], results: Sequence[int]) -> list[bool]:
        """Decodes JPEGs to addresses on the GPU, uint8 `(3, crop, crop)` each; returns when they are there.

        Returns:
            For each, whether it was decoded. What is not leaves its address as it was.

        Raises:
            CudaError: the GPU failed.
        """
        images = self._decoded(jpegs)
        addresses = list(map(_address, images, jpegs))
        if len(jpegs) > 1:
            # The engines decode all in one call, which one bad file can fail for the others.
            for number, jpeg in enumerate(jpegs):
                if addresses[number] is None:
                    (images[number],) = self._decoded([jpeg])
                    addresses[number] = _address(images[number], jpeg)
        found = [
            GpuImage(address, CHANNELS * jpeg.width, jpeg.width, jpeg.height, result)
            for address, jpeg, result in zip(addresses, jpegs, results, strict=True)
            if address is not None
        ]
        if found:
            self._resampler.resample(found, self._stream)
            self._stream.wait()
        return [address is not None for address in addresses]

    def _decoded(self, jpegs: Sequence[EncodedJpeg]) -> list[Any]:
        """Images on the GPU, each once the stream comes to it; None for what is not decoded."""
        # Copies of what lies in shared memory: when a client leaves, the next upload takes the place of its own, maybe
        # while it is being parsed.
        streams = [self._codec.CodeStream(bytes(jpeg.data)) for jpeg in jpegs]
        images: list[Any] = self._decoder.decode(streams, params=self._params, cuda_stream=self._stream.handle.value)
        return images

    def _new_decoder(self, gpu: int) -> Any:
        codec = self._codec
        self._params = codec.DecodeParams(apply_exif_orientation=False, color_spec=codec.ColorSpec.SRGB)
        # Only the JPEG engines: nvImageCodec's other ways are slower than the processor's cores together. Colours are
        # interpolated as libjpeg-turbo does.
        backends = [codec.Backend(codec.BackendKind.HW_GPU_ONLY)]
        return codec.Decoder(device_id=gpu, max_num_cpu_threads=1, backends=backends, options=":fancy_upsampling=1")


def require() -> None:
    """Raises ProviderUnavailable unless all is installed that decoding on a GPU needs."""
    if not COMPILED:
        raise ProviderUnavailable("the resize is not compiled: install the project with a C compiler")
    _nvimagecodec()


def _nvimagecodec() -> ModuleType:
    os.environ.setdefault("PYNVIMGCODEC_VERBOSITY", "0")  # it would print two lines for every damaged file
    try:
        from nvidia import nvimgcodec
    except ImportError as error:
        raise ProviderUnavailable(
            f"nvImageCodec does not load ({error}): install the extra `gpu-decoding` (nvidia-nvimgcodec-cu13)"
        ) from error
    module: ModuleType = nvimgcodec
    return module


def _address(image: Any, jpeg: EncodedJpeg) -> int | None:
    """Where decoded pixels lie, row after row; None unless they are what the header promised."""
    if image is None:
        return None
    # Once for each image: every question to it lets go of Python's lock, for which all threads of the engine process
    # wait. Strides of None mean that no row is padded (NumPy's array interface protocol).
    interface = image.__cuda_array_interface__
    packed = (None, (CHANNELS * jpeg.width, CHANNELS, 1))
    if tuple(interface["shape"]) != (jpeg.height, jpeg.width, CHANNELS) or interface.get("strides") not in packed:
        return None
    return int(interface["data"][0])
