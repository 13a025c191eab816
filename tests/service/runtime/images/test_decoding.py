"""Decoding real files of every kind that people send: their pixels or their faults."""

from __future__ import annotations

import io
import subprocess
import sys
import zlib

import numpy as np
import pytest
from PIL import Image

from service.runtime.faults import (
    CorruptImage,
    EmptyImage,
    ImageFault,
    NotAnImage,
    TooManyPixels,
    TruncatedImage,
    UnsupportedImageFormat,
)
from service.runtime.images.decoding import decode, load_pixels, open_image, shrink_on_load
from service.runtime.images.formats import SUPPORTED_FORMATS
from service.runtime.preprocessing import Preprocessing
from tests.service.runtime.images.pictures import (
    RED,
    STANDARD,
    WHOLE,
    corner,
    encode,
    jpeg_with_orientation,
    photograph,
    pixels,
    real_photograph,
    reference,
)
from tests.service.runtime.images.png import HEADER_END, chunk, insert_chunks

LONG = 11 * 2**20  # bytes of text, more than Pillow reads


def fault(data: bytes, max_pixels: int = 10_000_000) -> ImageFault:
    with pytest.raises(ImageFault) as raised:
        decode(data, STANDARD, max_pixels=max_pixels)
    return raised.value


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP"])
def test_formats(file_format: str) -> None:
    data = encode(photograph(500, 375), file_format)
    decoded = decode(data, STANDARD, max_pixels=500 * 375 * 4)  # a WebP may have a quarter
    assert (decoded.width, decoded.height) == (500, 375)
    expected = reference(Image.open(io.BytesIO(data)).convert("RGB"), STANDARD)
    assert np.abs(decoded.pixels.astype(int) - expected).max() <= 1


@pytest.mark.parametrize(
    ("size", "side", "divisor"),
    [
        ((100, 100), 100, 1),
        ((200, 199), 100, 1),
        ((200, 200), 100, 2),
        ((200, 900), 100, 2),
        ((900, 200), 100, 2),
        ((399, 399), 100, 2),
        ((400, 401), 100, 4),
        ((799, 1000), 100, 4),
        ((800, 800), 100, 8),
        ((801, 807), 100, 8),
        ((2000, 1800), 100, 8),  # the largest divisor
        ((99, 50), 100, 1),
        ((1, 1), 100, 1),
        ((65, 3), 1, 2),
    ],
)
def test_a_jpeg_shrinks_to_no_fewer_pixels_than_needed(size: tuple[int, int], side: int, divisor: int) -> None:
    opened = open_image(encode(Image.new("RGB", size), "JPEG"), 10**9)
    assert shrink_on_load(opened, (side, side)) == divisor
    image = load_pixels(opened)
    assert image.size == tuple(-(-length // divisor) for length in size)
    assert divisor == 1 or min(image.size) >= side


@pytest.mark.parametrize("file_format", ["PNG", "WEBP"])
def test_other_formats_do_not_shrink(file_format: str) -> None:
    opened = open_image(encode(photograph(900, 800), file_format), 10**9)
    assert shrink_on_load(opened, (32, 32)) == 1
    assert load_pixels(opened).size == (900, 800)


@pytest.mark.parametrize("mode", ["L", "CMYK"])
def test_jpegs_of_every_colour_space_shrink(mode: str) -> None:
    image = real_photograph(900, 800).convert(mode)
    data = encode(image, "JPEG", quality=92)
    assert shrink_on_load(open_image(data, 10**9), (100, 100)) == 8
    assert_close_when_scaled(data, Preprocessing(resize=100, crop=90), (900, 800))


def assert_close_when_scaled(
    data: bytes, preprocessing: Preprocessing, size: tuple[int, int], *, mean: float = 2, largest: int = 32
) -> None:
    """Checks that scaled decoding differs from decoding it whole, but by few grey levels."""
    scaled, whole = (decode(data, preprocessing, max_pixels=10**9, scaled=scaled) for scaled in (True, False))
    assert (scaled.width, scaled.height) == (whole.width, whole.height) == size
    assert not np.array_equal(scaled.pixels, whole.pixels)  # else nothing was scaled
    difference = np.abs(scaled.pixels.astype(int) - whole.pixels)
    assert difference.mean() < mean
    assert difference.max() < largest


@pytest.mark.parametrize(
    ("size", "resize"),
    [
        ((2560, 1708), 256),
        ((1708, 2560), 256),
        ((2559, 1707), 256),
        ((620, 1200), 256),
        ((3001, 2999), 256),
        ((641, 479), 32),
    ],
)
def test_a_scaled_photograph_is_close_to_the_whole_one(size: tuple[int, int], resize: int) -> None:
    data = encode(real_photograph(*size), "JPEG", quality=92)
    assert_close_when_scaled(data, Preprocessing(resize=resize, crop=resize - resize // 8), size)


@pytest.mark.parametrize("size", [(616, 616), (1232, 1300), (2464, 2465)])
def test_the_smallest_scaled_photographs_are_close_too(size: tuple[int, int]) -> None:
    data = encode(real_photograph(*size), "JPEG", quality=92)
    assert_close_when_scaled(data, STANDARD, size)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("size", [(1288, 808), (808, 1288)])
def test_a_scaled_photograph_is_close_in_every_orientation(size: tuple[int, int], orientation: int) -> None:
    upright_size = size if orientation < 5 else size[::-1]
    data = jpeg_with_orientation(real_photograph(*size), orientation)
    assert_close_when_scaled(data, Preprocessing(resize=80, crop=70), upright_size)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_sides_not_divisible_by_the_divisor_are_close_too(orientation: int) -> None:
    size = (1281, 801)  # 160.125 x 100.125 pixels after division by 8, in a picture of 161 x 101
    upright_size = size if orientation < 5 else size[::-1]
    data = jpeg_with_orientation(real_photograph(*size), orientation)
    assert_close_when_scaled(data, Preprocessing(resize=80, crop=70), upright_size)


@pytest.mark.parametrize("orientation", [1, 6])
def test_an_image_that_is_square_only_when_scaled_keeps_its_shape(orientation: int) -> None:
    size = (801, 808)  # both are 101 when divided by 8
    upright_size = size if orientation < 5 else size[::-1]
    data = jpeg_with_orientation(real_photograph(*size), orientation)
    opened = open_image(data, 10**9)
    assert shrink_on_load(opened, (80, 80)) == 8
    assert load_pixels(opened).size == (101, 101)
    scaled, whole = (decode(data, Preprocessing(resize=80, crop=70), max_pixels=10**9, scaled=s) for s in (True, False))
    assert (scaled.width, scaled.height) == upright_size
    assert np.abs(scaled.pixels.astype(int) - whole.pixels).mean() < 2


@pytest.mark.parametrize("size", [(615, 800), (800, 615), (256, 256), (100, 60)])
def test_small_photographs_are_decoded_whole(size: tuple[int, int]) -> None:
    data = encode(photograph(*size), "JPEG")
    scaled, whole = (decode(data, STANDARD, max_pixels=10**9, scaled=scaled) for scaled in (True, False))
    assert np.array_equal(scaled.pixels, whole.pixels)
    assert scaled[1:] == whole[1:] == size


def test_a_scaled_jpeg_is_limited_by_its_full_size() -> None:
    assert isinstance(fault(encode(Image.new("RGB", (2001, 2000)), "JPEG"), max_pixels=2000 * 2000), TooManyPixels)


def test_transparency_is_flattened_on_white() -> None:
    assert corner(encode(Image.new("RGBA", (32, 32), (255, 0, 0, 0)))) == (255, 255, 255)
    assert corner(encode(Image.new("RGBA", (32, 32), (255, 0, 0, 128)))) == (255, 127, 127)
    assert corner(encode(Image.new("LA", (32, 32), (0, 0)))) == (255, 255, 255)
    assert corner(encode(Image.new("RGBA", (32, 32), (0, 0, 0, 0)), "WEBP", lossless=True)) == (255, 255, 255)
    keyed = Image.new("RGB", (32, 32), (1, 2, 3))
    assert corner(encode(keyed, transparency=(1, 2, 3))) == (255, 255, 255)


def test_palette() -> None:
    image = Image.new("RGB", (32, 32), (200, 100, 50)).convert("P", palette=Image.Palette.ADAPTIVE)
    assert corner(encode(image)) == (200, 100, 50)
    assert corner(encode(image, transparency=0)) == (255, 255, 255)


def test_grey() -> None:
    assert corner(encode(Image.new("L", (32, 32), 77))) == (77, 77, 77)
    assert corner(encode(Image.new("1", (32, 32), 1))) == (255, 255, 255)


@pytest.mark.parametrize("kind", [b"pHYs", b"gAMA", b"sRGB", b"cHRM", b"tIME", b"bKGD"])
def test_damage_to_metadata_is_ignored(kind: bytes) -> None:
    png = encode(photograph(64, 64))
    broken = insert_chunks(png, (kind, b"?"))
    np.testing.assert_array_equal(pixels(broken), pixels(png))
    wrong_crc = bytearray(insert_chunks(png, (b"pHYs", bytes(9))))
    wrong_crc[HEADER_END + 17] ^= 1
    np.testing.assert_array_equal(pixels(bytes(wrong_crc)), pixels(png))


def test_text_after_the_picture_is_ignored() -> None:
    png = encode(photograph(64, 64))
    text = chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(LONG)))
    np.testing.assert_array_equal(pixels(png[:-12] + text + png[-12:]), pixels(png))


@pytest.mark.parametrize(
    "chunk",
    [
        (b"zTXt", b"Comment\0\0" + zlib.compress(bytes(LONG))),
        (b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(bytes(LONG))),
        (b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + b"x" * LONG),
        (b"iCCP", b"profile\0\0" + zlib.compress(bytes(LONG))),
        (b"tEXt", b"Comment\0" + b"x" * LONG),
    ],
    ids=["zTXt", "iTXt", "iTXt plain", "iCCP", "tEXt"],
)
@pytest.mark.parametrize("times", [1, 8])
def test_text_and_profiles_of_any_length_are_ignored(chunk: tuple[bytes, bytes], times: int) -> None:
    png = encode(photograph(64, 64))
    found = pixels(insert_chunks(png, (b"gAMA", (45455).to_bytes(4, "big")), *[chunk] * times))
    np.testing.assert_array_equal(found, pixels(png))


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}, {"restart_marker_rows": 1}])
@pytest.mark.parametrize("missing", [1, 2])
@pytest.mark.parametrize("size", [(64, 64), (501, 377), (1600, 1200)])
def test_a_jpeg_that_lacks_only_its_end_marker_is_complete(
    options: dict[str, object], missing: int, size: tuple[int, int]
) -> None:
    jpeg = encode(photograph(*size), "JPEG", **options)
    np.testing.assert_array_equal(pixels(jpeg[:-missing]), pixels(jpeg))


@pytest.mark.parametrize("missing", [8, 20, 100, 1000])
def test_a_jpeg_that_lacks_pixels_is_truncated(missing: int) -> None:
    jpeg = encode(photograph(501, 377), "JPEG")
    error = fault(jpeg[:-missing])
    assert isinstance(error, TruncatedImage)
    assert error.members["received"] == len(jpeg) - missing


def test_cmyk_and_its_jpeg() -> None:
    red = corner(encode(Image.new("CMYK", (32, 32), (0, 255, 255, 0)), "JPEG", quality=95))
    assert red[0] > 240
    assert max(red[1:]) < 15


@pytest.mark.parametrize("file_format", ["PNG", "WEBP"])
def test_an_animation_is_its_first_frame(file_format: str) -> None:
    frames = [Image.new("RGB", (32, 32), colour) for colour in ("red", "blue")]
    data = encode(frames[0], file_format, save_all=True, append_images=frames[1:], duration=100)
    assert corner(data)[0] > 240
    assert corner(data)[2] < 15


def test_a_phones_jpeg_with_a_second_picture_inside() -> None:
    frames = [Image.new("RGB", (32, 32), colour) for colour in ("red", "blue")]
    assert corner(encode(frames[0], "MPO", save_all=True, append_images=frames[1:]))[0] > 240


@pytest.mark.parametrize("size", [(1, 1), (1, 3000), (3000, 1), (2, 700)])
def test_extreme_shapes(size: tuple[int, int]) -> None:
    decoded = decode(encode(Image.new("RGB", size, "green")), STANDARD, max_pixels=10_000)
    assert (decoded.width, decoded.height) == size
    assert (decoded.pixels == np.array([0, 128, 0]).reshape(3, 1, 1)).all()


def test_empty() -> None:
    assert isinstance(fault(b""), EmptyImage)


@pytest.mark.parametrize(
    ("data", "found"),
    [
        (b"hello", "no known format"),
        (b"\0" * 100, "no known format"),
        (b"<html>no</html>", "a web page"),
        (b"\xff\xd8", "no known format"),
    ],
)
def test_not_an_image(data: bytes, found: str) -> None:
    error = fault(data)
    assert isinstance(error, NotAnImage)
    assert error.members["found"] == found


@pytest.mark.parametrize("file_format", ["GIF", "BMP", "TIFF", "AVIF", "JPEG2000", "ICO"])
def test_real_files_of_unsupported_formats_are_named(file_format: str) -> None:
    error = fault(encode(RED, file_format))
    assert isinstance(error, UnsupportedImageFormat)
    assert str(error.members["format"]).replace(" ", "") == file_format
    assert "JPEG, PNG, WEBP" in str(error)


def test_unsupported_kinds_of_jpeg_are_not_called_damaged() -> None:
    jpeg = bytearray(encode(photograph(64, 64), "JPEG"))
    jpeg[jpeg.index(b"\xff\xc0") + 4] = 12
    error = fault(bytes(jpeg))
    assert isinstance(error, UnsupportedImageFormat)
    assert error.members["format"] == "12-bit JPEG"


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("kept", [0.3, 0.6, 0.95])
def test_truncated(file_format: str, kept: float) -> None:
    data = encode(photograph(500, 375), file_format)
    error = fault(data[: int(len(data) * kept)])
    assert isinstance(error, TruncatedImage), error
    assert error.members["received"] == int(len(data) * kept)


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("kept", [16, 40, 120])
def test_truncated_in_the_header(file_format: str, kept: int) -> None:
    assert isinstance(fault(encode(photograph(500, 375), file_format)[:kept]), TruncatedImage)


def test_damaged() -> None:
    data = bytearray(encode(photograph(300, 300), "PNG"))
    data[2000:2100] = bytes(100)
    assert isinstance(fault(bytes(data)), CorruptImage)


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP"])
def test_any_damage_ends_in_a_fault_or_a_picture(file_format: str) -> None:
    whole = encode(photograph(80, 60), file_format)
    rng = np.random.default_rng(0)
    outcomes = set()
    for _ in range(300):
        data = bytearray(whole)
        for position in rng.integers(0, len(data), rng.integers(1, 8)):
            data[position] = rng.integers(0, 256)
        try:
            decode(bytes(data), WHOLE, max_pixels=1_000_000)
            outcomes.add("picture")
        except ImageFault:
            outcomes.add("fault")
    assert outcomes == {"picture", "fault"}


def test_pixels_are_limited_before_they_are_decoded() -> None:
    data = encode(Image.new("1", (20_000, 20_000)))  # 50 kB that would be 1.2 GB as RGB
    assert len(data) < 100_000
    error = fault(data, max_pixels=64_000_000)
    assert isinstance(error, TooManyPixels)
    assert (error.members["width"], error.members["height"]) == (20_000, 20_000)
    decode(encode(Image.new("RGB", (100, 100))), STANDARD, max_pixels=100 * 100)  # the limit itself is allowed


def test_pillows_decoders_are_loaded_before_the_first_image() -> None:
    program = "import service.runtime.images.decoding; from PIL import Image; print(*Image.OPEN)"
    loaded = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout.split()
    assert set(SUPPORTED_FORMATS) <= set(loaded)
