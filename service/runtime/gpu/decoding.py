"""Decodes JPEGs on the GPU's JPEG engines, by NVIDIA's nvImageCodec, straight into a batch.

An H200 decodes 20,000 photographs of 500x375 pixels a second, to within one grey level of libjpeg-turbo's pixels
(`benchmarks.gpu`). The resize that follows is that of the processor, bit for bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from service.runtime.gpu.memory import CudaError, Stream
from service.runtime.gpu.resampling import GpuImage, GpuResampler
from service.runtime.images.encoded import EncodedJpeg
from service.runtime.images.resizing import COMPILED
from service.runtime.model_card import Preprocessing
from service.runtime.providers import ProviderUnavailable

if TYPE_CHECKING:
    from types import ModuleType


class GpuDecoder:
    """Decodes, resizes and crops JPEGs on one GPU. For one thread."""

    def __init__(self, gpu: int, preprocessing: Preprocessing) -> None:
        """Raises ProviderUnavailable, which names what is missing and the remedy."""
        if not COMPILED:
            raise ProviderUnavailable("the resize is not compiled: install the project with a C compiler")
        self._codec = _nvimagecodec()
        self._crop = preprocessing.crop
        try:
            self._decoder = self._new_decoder(gpu)
            self._stream = Stream(gpu)
            self._resampler = GpuResampler(gpu, preprocessing)
        except (CudaError, RuntimeError) as error:
            raise ProviderUnavailable(
                f"this GPU does not decode JPEGs ({error}): it takes one with JPEG engines, such as A100, H100 or L4"
            ) from error

    def decode(self, jpegs: Sequence[EncodedJpeg], results: Sequence[int]) -> list[bool]:
        """Decodes JPEGs to addresses on the GPU, uint8 `(3, crop, crop)` each; returns when they are there.

        Returns:
            For each, whether it was decoded. What is not leaves its address as it was.

        Raises:
            CudaError: the GPU failed.
        """
        streams = [self._codec.CodeStream(bytes(jpeg.data)) for jpeg in jpegs]
        images = self._decoder.decode(streams, params=self._params, cuda_stream=self._stream.handle.value)
        decoded = [image is not None and _is(image, jpeg) for image, jpeg in zip(images, jpegs, strict=True)]
        found = [
            GpuImage(_address(image), image.strides[0], jpeg.width, jpeg.height, result)
            for image, jpeg, result, good in zip(images, jpegs, results, decoded, strict=True)
            if good
        ]
        if found:
            self._resampler.resample(found, self._stream)
            self._stream.wait()
        return decoded

    def _new_decoder(self, gpu: int) -> Any:
        codec = self._codec
        self._params = codec.DecodeParams(apply_exif_orientation=False, color_spec=codec.ColorSpec.SRGB)
        # Only the JPEG engines: nvImageCodec's other ways are slower than the processor's cores together. Colours are
        # interpolated as libjpeg-turbo does.
        backends = [codec.Backend(codec.BackendKind.HW_GPU_ONLY)]
        return codec.Decoder(device_id=gpu, max_num_cpu_threads=1, backends=backends, options=":fancy_upsampling=1")


def _nvimagecodec() -> ModuleType:
    try:
        from nvidia import nvimgcodec
    except ImportError as error:
        raise ProviderUnavailable(
            f"nvImageCodec does not load ({error}): install the extra `gpu-decoding` (nvidia-nvimgcodec-cu13)"
        ) from error
    module: ModuleType = nvimgcodec
    return module


def _is(image: Any, jpeg: EncodedJpeg) -> bool:
    """Whether decoded pixels are what the header promised."""
    return tuple(image.shape) == (jpeg.height, jpeg.width, 3) and tuple(image.strides[1:]) == (3, 1)


def _address(image: Any) -> int:
    return int(image.__cuda_array_interface__["data"][0])
