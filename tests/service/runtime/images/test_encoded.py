"""Which uploads a GPU may decode."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from service.runtime.images import encoded as module
from service.runtime.images.encoded import EncodedJpeg, encoded
from service.runtime.images.headers import read_header
from service.runtime.preprocessing import Preprocessing

PIXELS = np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)


def upload(mode: str = "RGB", file_format: str = "JPEG", **options: object) -> bytes:
    file = io.BytesIO()
    Image.fromarray(PIXELS).convert(mode).save(file, file_format, **options)
    return file.getvalue()


def with_sampling(factors: int) -> bytes:
    """A grey JPEG whose only component has these factors."""
    data = upload("L")
    at = data.index(b"\xff\xc0") + 4 + 6 + 1
    return data[:at] + bytes([factors]) + data[at + 1 :]


def without_huffman_tables() -> bytes:
    """As in Motion JPEG: the decoder is to know them."""
    data = upload()
    while (start := data.find(b"\xff\xc4")) >= 0:
        data = data[:start] + data[start + 2 + int.from_bytes(data[start + 2 : start + 4]) :]
    return data


def found(data: bytes) -> EncodedJpeg | None:
    return encoded(data, read_header(data, Preprocessing(), max_pixels=10**9))


def orientation(value: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = value
    return exif


@pytest.mark.parametrize(
    "data",
    [
        upload(),
        upload("L"),
        upload(subsampling=0),
        upload(subsampling=1),
        upload(restart_marker_blocks=1),
        upload(exif=orientation(1)),
        upload(comment=b"a holiday"),
    ],
)
def test_plain_jpegs_without_their_metadata(data: bytes) -> None:
    jpeg = found(data)
    assert jpeg is not None
    assert (jpeg.width, jpeg.height) == (40, 30)
    assert b"holiday" not in jpeg.data
    assert Image.open(io.BytesIO(jpeg.data)).tobytes() == Image.open(io.BytesIO(data)).tobytes()


@pytest.mark.parametrize(
    "data",
    [
        upload(progressive=True),
        upload("CMYK"),
        upload(keep_rgb=True),
        upload(exif=orientation(6)),
        upload(file_format="PNG"),
        upload(file_format="WEBP"),
        upload()[:-2],  # lacks its end
        upload() + b"more",
        upload() + upload(),
        upload().replace(b"\x22\x00\x02\x11\x01\x03\x11\x01", b"\x41\x00\x02\x11\x01\x03\x11\x01"),  # 4:1:1
        with_sampling(0x22),  # grey, in units of four blocks
        without_huffman_tables(),
    ],
)
def test_what_the_processor_decodes(data: bytes) -> None:
    assert found(data) is None


def test_large_ones_are_for_the_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    data = upload()
    monkeypatch.setattr(module, "MAX_BYTES", len(data))
    assert found(data)
    monkeypatch.setattr(module, "MAX_BYTES", len(data) - 1)
    assert found(data) is None
    monkeypatch.setattr(module, "MAX_BYTES", len(data))
    monkeypatch.setattr(module, "MAX_PIXELS", 40 * 30 - 1)
    assert found(data) is None
