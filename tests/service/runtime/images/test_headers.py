"""What a header promises: limits before Pillow sees the file, a bound on memory, and few steps."""

from __future__ import annotations

import io
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from service.runtime.faults import EmptyImage, NotAnImage, TooComplexImage, TooManyPixels
from service.runtime.images import decoding
from service.runtime.images.decoding import decode
from service.runtime.images.headers import Header, read_header
from service.runtime.images.layout import MAX_PARTS
from service.runtime.images.png_chunks import MAX_CHUNKS
from tests.service.runtime.images import hostile
from tests.service.runtime.images.pictures import STANDARD, encode, photograph, real_photograph
from tests.service.runtime.images.png import insert_chunks, png_of_16_bit_colours
from tests.service.runtime.images.riff import many_codes, one_colour
from tests.service.runtime.images.steps import lines_run

MEGABYTE = 2**20
REFUSED = {*hostile.FILES} - {"tags"}


def header(data: bytes, max_pixels: int = 10**9, *, scaled: bool = True) -> Header:
    return read_header(data, STANDARD, max_pixels=max_pixels, scaled=scaled)


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP"])
def test_a_header(file_format: str) -> None:
    found = header(encode(photograph(500, 375), file_format))
    assert found[:3] == (file_format, 500, 375)
    assert found.decode_bytes > 500 * 375 * 4


def test_what_is_no_image() -> None:
    for data, expected in ((b"", EmptyImage), (b"{}", NotAnImage)):
        with pytest.raises(expected):
            header(data)


@pytest.mark.parametrize(
    ("data", "allowed"),
    [
        (encode(Image.new("L", (300, 200)), "JPEG"), 60_000),
        (encode(Image.new("L", (300, 200)), "PNG"), 60_000),
        (encode(Image.new("L", (300, 200)), "WEBP"), 240_000),
        (one_colour(300, 200), 240_000),
    ],
    ids=["JPEG", "PNG", "WebP", "lossless"],
)
def test_pixels_are_limited_before_pillow_sees_the_file(
    data: bytes, allowed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert decode(data, STANDARD, max_pixels=allowed)[1:] == (300, 200)
    monkeypatch.setattr(decoding.Image, "open", None)
    for read in (read_header, decode):
        with pytest.raises(TooManyPixels) as raised:
            read(data, STANDARD, max_pixels=allowed - 1)
        assert raised.value.members["max_pixels"] < 60_000


@pytest.mark.parametrize("name", hostile.FILES)
def test_hostile_files_end_in_a_picture_or_a_fault(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files of two megabytes. Pillow sees none that is refused, and none with its metadata."""
    data = hostile.FILES[name](2 * MEGABYTE)
    seen = []

    def watched(file: io.BytesIO, **options: Any) -> Image.Image:
        seen.append(len(file.getvalue()))
        return Image.open(file, **options)

    monkeypatch.setattr(decoding, "Image", type("Watched", (), {"open": staticmethod(watched), "Image": Image.Image}))
    if name in REFUSED:
        with pytest.raises(TooComplexImage):
            decode(data, STANDARD, max_pixels=10**9)
        assert not seen
    else:
        decode(data, STANDARD, max_pixels=10**9)
        assert max(seen) < len(data) - 60_000  # the tags are gone


@pytest.mark.parametrize("name", hostile.FILES)
def test_the_steps_do_not_grow_with_the_file(name: str) -> None:
    data = hostile.FILES[name](2 * MEGABYTE)
    most = 20 * MAX_CHUNKS if data.startswith(b"\x89PNG") else 25 * MAX_PARTS
    assert lines_run(lambda: header(data)) < most


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP"])
def test_a_photograph_takes_few_steps(file_format: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encode(real_photograph(1600, 1200), file_format, exif=exif, icc_profile=bytes(3000))
    assert lines_run(lambda: header(data)) < 1000


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP"])
def test_a_file_whose_header_has_been_read_is_not_walked_again(
    file_format: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = encode(photograph(500, 375), file_format)
    read, expected = header(data), decode(data, STANDARD, max_pixels=10**9)
    monkeypatch.setattr(decoding, "read_layout", None)
    decoded = decode(data, STANDARD, max_pixels=10**9, header=read)
    assert np.array_equal(decoded.pixels, expected.pixels)
    assert decoded[1:] == (500, 375)


# What lossless pictures take of the memory that they could take does not stand in their header.
LOOSE = {"WebP, lossless", "WebP with alpha", "WebP with alpha, lossless"}


def deep(image: Image.Image, shift: int) -> np.ndarray:
    """Samples of 8 bits with more zeros below: uint16 (height, width, channels)."""
    return np.asarray(image).astype(np.uint16) << shift


def with_alpha(image: Image.Image) -> Image.Image:
    image = image.convert("RGBA")
    image.putalpha(image.convert("L"))
    return image


def jpegs(image: Image.Image) -> dict[str, bytes]:
    found = {}
    for mode in ("RGB", "L", "CMYK"):
        for progressive in (False, True):
            name = f"JPEG {mode}{' progressive' * progressive}"
            found[name] = encode(image.convert(mode), "JPEG", progressive=progressive)
            found[f"{name} without end"] = found[name][:-2]
    found["JPEG 4:4:4 progressive"] = encode(image, "JPEG", progressive=True, subsampling=0)
    found["JPEG with a comment"] = encode(image, "JPEG", comment=b"x")
    return found


def others(image: Image.Image) -> dict[str, bytes]:
    grey, clear = image.convert("L"), with_alpha(image)
    pngs: dict[str, tuple[Image.Image, dict[str, Any]]] = {
        "PNG RGB": (image, {}),
        "PNG L": (grey, {}),
        "PNG 1": (image.convert("1"), {}),
        "PNG P": (image.convert("P"), {}),
        "PNG P with transparency": (image.convert("P"), {"transparency": bytes(range(255))}),
        "PNG RGB with transparency": (image, {"transparency": (1, 2, 3)}),
        "PNG L with transparency": (grey, {"transparency": 3}),
        "PNG LA": (clear.convert("LA"), {}),
        "PNG RGBA": (clear, {}),
        "PNG of 16 bits": (Image.fromarray(deep(grey, 8)), {}),
        "PNG of 12 bits": (Image.fromarray(deep(grey, 4)), {}),
    }
    found = {name: encode(picture, compress_level=1, **options) for name, (picture, options) in pngs.items()}
    found["PNG RGB with a text"] = insert_chunks(found["PNG RGB"], (b"tEXt", b"a\0b"))
    for bits in (12, 16):
        found[f"PNG RGB of {bits} bits"] = png_of_16_bit_colours(deep(image, bits - 8))
        found[f"PNG RGBA of {bits} bits"] = png_of_16_bit_colours(deep(clear, bits - 8))
    for name, picture in (("WebP", image), ("WebP with alpha", clear)):
        found[name] = encode(picture, "WEBP", method=0)
        found[f"{name}, lossless"] = encode(picture, "WEBP", lossless=True, method=0, quality=0)
    return found


def growths(files: dict[str, bytes], folder: Path, *, scaled: bool) -> list[int]:
    """The bytes by which decoding each file raises the peak of a process."""
    paths = [folder / str(number) for number in range(len(files))]
    for path, data in zip(paths, files.values(), strict=True):
        path.write_bytes(data)
    module = "tests.service.runtime.images.decode_memory"
    command = [sys.executable, "-m", module, "scaled" if scaled else "whole", *map(str, paths)]
    return list(map(int, subprocess.check_output(command, text=True).split()))


@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak from /proc")
@pytest.mark.parametrize("side", [64, 128, 256, 512, 1024])
def test_the_memory_of_prefix_codes_stays_below_the_estimate(side: int, tmp_path: Path) -> None:
    data = many_codes(side)
    (grown,) = growths({"codes": data}, tmp_path, scaled=True)
    assert (side // 4) ** 2 * 4096 < grown <= header(data).decode_bytes


@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak from /proc")
@pytest.mark.parametrize(
    ("make", "size", "scaled"),
    [
        (jpegs, (2400, 1700), False),
        pytest.param(jpegs, (4000, 3000), True, marks=pytest.mark.slow),
        pytest.param(others, (2400, 1700), False, marks=pytest.mark.slow),
        pytest.param(jpegs, (4600, 3500), False, marks=pytest.mark.slow),
        pytest.param(others, (4600, 3500), False, marks=pytest.mark.slow),
    ],
)
def test_memory_stays_below_the_estimate_which_is_not_much_too_large(
    make: Callable[[Image.Image], dict[str, bytes]], size: tuple[int, int], scaled: bool, tmp_path: Path
) -> None:
    files = make(real_photograph(*size))
    for (name, data), grown in zip(files.items(), growths(files, tmp_path, scaled=scaled), strict=True):
        estimate = header(data, scaled=scaled).decode_bytes
        assert grown <= estimate, f"{name}: {grown / MEGABYTE:.1f} MB, of {estimate / MEGABYTE:.1f} estimated"
        if name in LOOSE:
            continue
        # Half a megabyte of small change, which is noise beside a small picture.
        assert estimate < 2.5 * grown + MEGABYTE / 2, f"{name}: {estimate / MEGABYTE:.1f} MB, of {grown / MEGABYTE:.1f}"
