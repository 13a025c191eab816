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
        failed = [number for number, image in enumerate(images) if image is None]
        if len(jpegs) > 1:
            # The engines decode all in one call, which one bad file can fail for the others.
            for number in failed:
                (images[number],) = self._decoded([jpegs[number]])
        found = [
            GpuImage(_address(image), image.strides[0], jpeg.width, jpeg.height, result)
            for image, jpeg, result in zip(images, jpegs, results, strict=True)
            if image is not None
        ]
        if found:
            self._resampler.resample(found, self._stream)
            self._stream.wait()
        return [image is not None for image in images]

    def _decoded(self, jpegs: Sequence[EncodedJpeg]) -> list[Any]:
        """Images on the GPU, each once the stream comes to it; None for what is not decoded to what its header says."""
        streams = [self._codec.CodeStream(bytes(jpeg.data)) for jpeg in jpegs]
        images = self._decoder.decode(streams, params=self._params, cuda_stream=self._stream.handle.value)
        return [image if _is(image, jpeg) else None for image, jpeg in zip(images, jpegs, strict=True)]

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


def _is(image: Any, jpeg: EncodedJpeg) -> bool:
    """Whether there are decoded pixels, and they are what the header promised."""
    if image is None:
        return False
    return tuple(image.shape) == (jpeg.height, jpeg.width, 3) and tuple(image.strides[1:]) == (3, 1)


def _address(image: Any) -> int:
    return int(image.__cuda_array_interface__["data"][0])
