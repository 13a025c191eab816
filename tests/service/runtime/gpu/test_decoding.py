"""Decoding on a GPU: with a stand-in for nvImageCodec, and with a GPU where there is one."""

from __future__ import annotations

import ctypes
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest

from service.runtime.gpu import decoding
from service.runtime.gpu.decoding import GpuDecoder
from service.runtime.gpu.memory import CudaError
from service.runtime.images.decoding import decode
from service.runtime.images.encoded import EncodedJpeg, encoded
from service.runtime.images.headers import read_header
from service.runtime.images.resizing import COMPILED
from service.runtime.preprocessing import Preprocessing
from service.runtime.providers import ProviderUnavailable

PREPROCESSING = Preprocessing()

pytestmark = pytest.mark.skipif(not COMPILED, reason="the resize is not compiled")


class Codec:
    """nvImageCodec, whose "JPEGs" are what is done with them. One that is `bad` fails all that are decoded with it.

    Attributes:
        calls: what was decoded together.
    """

    ColorSpec = SimpleNamespace(SRGB="sRGB")
    BackendKind = SimpleNamespace(HW_GPU_ONLY="engines")

    def __init__(self) -> None:
        self.calls: list[list[bytes]] = []

    def CodeStream(self, data: bytes) -> bytes:  # noqa: N802
        return data

    def DecodeParams(self, **options: object) -> None:  # noqa: N802
        assert options == {"apply_exif_orientation": False, "color_spec": "sRGB"}

    def Backend(self, kind: str) -> str:  # noqa: N802
        return kind

    def Decoder(self, *, backends: list[str], **options: object) -> Codec:  # noqa: N802
        assert backends == ["engines"]
        return self

    def decode(self, streams: list[bytes], *, params: None, cuda_stream: int) -> list[Any]:
        self.calls.append(streams)
        if b"bad" in streams:
            return [None] * len(streams)
        shapes = {b"other size": (20, 31, 3), b"grey": (20, 30, 1)}
        strides = {b"good": None, b"padded": (96, 3, 1)}
        return [
            SimpleNamespace(
                __cuda_array_interface__={
                    "shape": shapes.get(data, (20, 30, 3)),
                    "strides": strides.get(data, (90, 3, 1)),
                    "data": (7000 + number, False),
                }
            )
            for number, data in enumerate(streams)
        ]


class Resampler:
    def __init__(self, gpu: int, preprocessing: Preprocessing) -> None:
        assert (gpu, preprocessing) == (1, PREPROCESSING)
        self.batches: list[list[tuple[int, ...]]] = []

    def resample(self, images: list[tuple[int, ...]], stream: object) -> None:
        self.batches.append(images)


@pytest.fixture
def codec(monkeypatch: pytest.MonkeyPatch) -> Codec:
    made = Codec()
    monkeypatch.setattr(decoding, "_nvimagecodec", lambda: made)
    stream = SimpleNamespace(handle=ctypes.c_void_p(1), wait=lambda: None)
    monkeypatch.setattr(decoding, "Stream", lambda gpu: stream)
    monkeypatch.setattr(decoding, "GpuResampler", Resampler)
    return made


def jpegs(*contents: bytes) -> list[EncodedJpeg]:
    return [EncodedJpeg(data, 30, 20) for data in contents]


def test_every_image_is_resized_to_its_own_place(codec: Codec) -> None:
    decoder = GpuDecoder(1, PREPROCESSING)
    assert decoder.decode(jpegs(b"good", b"good, too"), [100, 200]) == [True, True]
    assert decoder._resampler.batches == [[(7000, 90, 30, 20, 100), (7001, 90, 30, 20, 200)]]  # type: ignore[attr-defined]


def test_a_bad_one_fails_alone(codec: Codec) -> None:
    decoder = GpuDecoder(1, PREPROCESSING)
    assert decoder.decode(jpegs(b"good", b"bad", b"good"), [100, 200, 300]) == [True, False, True]
    assert codec.calls == [[b"good", b"bad", b"good"], [b"good"], [b"bad"], [b"good"]]
    assert decoder.decode(jpegs(b"bad"), [100]) == [False]
    assert len(codec.calls) == 5
    assert [[image[-1] for image in batch] for batch in decoder._resampler.batches] == [[100, 300]]  # type: ignore[attr-defined]


@pytest.mark.parametrize("content", [b"other size", b"padded", b"grey"])
def test_pixels_that_the_header_did_not_promise_are_not_read(codec: Codec, content: bytes) -> None:
    assert GpuDecoder(1, PREPROCESSING).decode(jpegs(content), [100]) == [False]


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (RuntimeError("Code: 7"), r"nvImageCodec does not start \(Code: 7\): it takes a GPU with JPEG engines"),
        (CudaError("NVRTC is missing"), "the resize on the GPU does not start: NVRTC is missing"),
    ],
)
def test_what_is_missing_is_named(
    codec: Codec, monkeypatch: pytest.MonkeyPatch, error: Exception, message: str
) -> None:
    def fail(**options: object) -> None:
        raise error

    monkeypatch.setattr(codec, "Decoder", fail)
    with pytest.raises(ProviderUnavailable, match=message):
        GpuDecoder(1, PREPROCESSING)


def test_without_nvimagecodec_its_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "nvidia", None)
    with pytest.raises(ProviderUnavailable, match="install the extra `gpu-decoding`"):
        decoding.require()


@pytest.mark.gpu
@pytest.mark.skipif("CUDAExecutionProvider" not in ort.get_available_providers(), reason="needs an NVIDIA GPU")
def test_a_gpu_decodes_like_the_processor(photo: bytes) -> None:
    """Together with files whose pixels are damaged, missing or without their tables, in any order."""
    pytest.importorskip("nvidia.nvimgcodec")
    good = encoded(photo, read_header(photo, PREPROCESSING, max_pixels=10**9))
    assert good is not None
    expected = decode(photo, PREPROCESSING, max_pixels=10**9).pixels.astype(int)
    at = len(good.data) // 2
    half = good._replace(data=good.data[:at] + b"\xff\xd9")
    noise = good._replace(data=good.data[:at] + bytes(range(250)) * 8 + good.data[at + 2000 :])
    tables = good.data.index(b"\xff\xc4")
    broken = good._replace(data=good.data[: tables + 5] + b"\xf0" * 16 + good.data[tables + 21 :])
    pixels = ort.OrtValue.ortvalue_from_numpy(np.zeros((6, 3, 224, 224), np.uint8), "cuda", 0)
    results = [pixels.data_ptr() + row * 3 * 224**2 for row in range(6)]
    found = GpuDecoder(0, PREPROCESSING).decode([good, half, good, broken, noise, good], results)
    assert [found[row] for row in (0, 2, 5)] == [True] * 3
    for row in (0, 2, 5):
        assert np.abs(pixels.numpy()[row] - expected).max() <= 1
