"""From bytes to pixels, on real files of every kind that people send."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image, ImageOps

from service.card import Preprocessing
from service.errors import (
    CorruptImage,
    EmptyImage,
    ImageProblem,
    NotAnImage,
    TooManyPixels,
    TruncatedImage,
    UnsupportedImageFormat,
)
from service.imaging import decode, resize_and_crop, to_array

STANDARD = Preprocessing()
WHOLE = Preprocessing(resize=32, crop=32)


def encode(image: Image.Image, file_format: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


def photograph(width: int, height: int) -> Image.Image:
    """Smooth and detailed parts, no symmetry."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:height, :width]
    base = np.stack([x * 255 / width, y * 255 / height, (x * y) % 256], axis=2)
    return Image.fromarray(np.clip(base + rng.normal(0, 12, base.shape), 0, 255).astype(np.uint8))


def corner(data: bytes) -> tuple[int, ...]:
    """The colour of the top left pixel after decoding."""
    return tuple(decode(data, WHOLE, max_pixels=10_000).pixels[:, 0, 0].tolist())


def reference(image: Image.Image, preprocessing: Preprocessing) -> np.ndarray:
    """torchvision's `Resize` and `CenterCrop` written out: resize the whole image, then cut."""
    width, height = image.size
    short = min(width, height)
    size = tuple(
        preprocessing.resize if side == short else int(preprocessing.resize * side / short) for side in image.size
    )
    resized = image.resize(size, Image.Resampling.BILINEAR)
    left, top = (round((side - preprocessing.crop) / 2.0) for side in size)
    cut = resized.crop((left, top, left + preprocessing.crop, top + preprocessing.crop))
    return np.asarray(cut).transpose(2, 0, 1)


@pytest.mark.parametrize("size", [(500, 375), (375, 500), (640, 427), (224, 224), (256, 256), (97, 1201), (1999, 300)])
@pytest.mark.parametrize("preprocessing", [STANDARD, Preprocessing(resize=232), WHOLE], ids=["256", "232", "32"])
def test_pixels_are_those_of_resize_then_crop(size: tuple[int, int], preprocessing: Preprocessing) -> None:
    image = photograph(*size)
    ours = to_array(resize_and_crop(image, preprocessing))
    theirs = reference(image, preprocessing)
    assert ours.shape == (3, preprocessing.crop, preprocessing.crop)
    assert ours.dtype == np.uint8
    assert ours.flags.c_contiguous
    # The grid is the same, but Pillow rounds to whole grey levels between its two passes, and which pass comes first
    # may depend on the box. A grid off by a hundredth of a pixel, or another filter, differs by far more than that.
    difference = np.abs(ours.astype(int) - theirs.astype(int))
    assert difference.max() <= 2
    assert difference.mean() < 0.25


def test_a_shifted_grid_would_be_noticed() -> None:
    image = photograph(500, 375)
    shifted = image.resize(image.size, Image.Resampling.BILINEAR, (0.1, 0, 500, 375))
    ours, theirs = (to_array(resize_and_crop(i, STANDARD)).astype(int) for i in (image, shifted))
    difference = np.abs(ours - theirs)
    assert difference.mean() > 0.25


def test_the_filter_is_the_cards() -> None:
    image = photograph(500, 375)
    by_filter = [
        to_array(resize_and_crop(image, Preprocessing(interpolation=name)))
        for name in ("bilinear", "bicubic", "lanczos")
    ]
    assert not np.array_equal(by_filter[0], by_filter[1])
    assert not np.array_equal(by_filter[1], by_filter[2])


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP"])
def test_formats(file_format: str) -> None:
    data = encode(photograph(500, 375), file_format)
    decoded = decode(data, STANDARD, max_pixels=500 * 375)
    assert (decoded.width, decoded.height) == (500, 375)
    expected = reference(Image.open(io.BytesIO(data)).convert("RGB"), STANDARD)
    assert np.abs(decoded.pixels.astype(int) - expected).max() <= 1


def test_exif_orientation_is_applied() -> None:
    image = Image.new("RGB", (64, 32), "red")
    image.paste("blue", (0, 0, 8, 32))
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: show it rotated by 90 degrees clockwise
    decoded = decode(encode(image, "JPEG", exif=exif, quality=95), WHOLE, max_pixels=10_000)
    assert (decoded.width, decoded.height) == (32, 64)
    assert decode(encode(image, "JPEG", exif=exif), WHOLE, max_pixels=10_000).pixels.shape == (3, 32, 32)
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(encode(image, "JPEG", exif=exif, quality=95))))
    assert np.array_equal(decoded.pixels, to_array(resize_and_crop(upright, WHOLE)))


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_unreadable_exif_does_not_matter() -> None:
    data = encode(Image.new("RGB", (32, 32), "red"), "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    assert corner(data)[0] > 240


def test_transparency_lies_on_white() -> None:
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


def test_16_bit_grey_keeps_its_shades() -> None:
    image = Image.fromarray(np.full((32, 32), 0x8000, np.uint16))
    assert corner(encode(image)) == (0x80, 0x80, 0x80)


def test_16_bit_grey_with_a_transparent_shade_is_no_white_sheet() -> None:
    image = Image.fromarray(np.full((32, 32), 0x4000, np.uint16))
    assert corner(encode(image, transparency=0)) == (0x40, 0x40, 0x40)


def test_transparent_edges_are_those_of_laying_it_on_white_first() -> None:
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 256, (90, 120, 4), dtype=np.uint8), "RGBA")
    paper = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    ours = decode(encode(image), WHOLE, max_pixels=20_000).pixels.astype(int)
    assert np.abs(ours - to_array(resize_and_crop(paper, WHOLE))).max() <= 2


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


def fault(data: bytes, max_pixels: int = 10_000_000) -> ImageProblem:
    with pytest.raises(ImageProblem) as raised:
        decode(data, STANDARD, max_pixels=max_pixels)
    return raised.value


def test_empty() -> None:
    assert isinstance(fault(b""), EmptyImage)


@pytest.mark.parametrize("data", [b"hello", b"\0" * 100, b"<html>no</html>", b"\xff\xd8"])
def test_not_an_image(data: bytes) -> None:
    assert isinstance(fault(data), NotAnImage)


@pytest.mark.parametrize("file_format", ["GIF", "BMP", "TIFF", "AVIF", "JPEG2000", "ICO"])
def test_real_files_of_unsupported_formats_are_named(file_format: str) -> None:
    problem = fault(encode(Image.new("RGB", (64, 64), "red"), file_format))
    assert isinstance(problem, UnsupportedImageFormat)
    assert str(problem.members["format"]).replace(" ", "") == file_format
    assert "JPEG, PNG, WEBP" in str(problem)


@pytest.mark.parametrize("data", [b"\0\0\0\x18ftypheic\0\0\0\0", b"%PDF-1.7", b"<svg xmlns='x'/>"])
def test_other_unsupported_formats_are_named(data: bytes) -> None:
    assert isinstance(fault(data), UnsupportedImageFormat)


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("kept", [0.3, 0.6, 0.95])
def test_truncated(file_format: str, kept: float) -> None:
    data = encode(photograph(500, 375), file_format)
    problem = fault(data[: int(len(data) * kept)])
    assert isinstance(problem, TruncatedImage), problem
    assert problem.members["received"] == int(len(data) * kept)


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("kept", [16, 40, 120])
def test_truncated_in_the_header(file_format: str, kept: int) -> None:
    assert isinstance(fault(encode(photograph(500, 375), file_format)[:kept]), TruncatedImage)


def test_damaged() -> None:
    data = bytearray(encode(photograph(300, 300), "PNG"))
    data[2000:2100] = bytes(100)
    assert isinstance(fault(bytes(data)), CorruptImage)


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP"])
def test_any_damage_is_a_problem_or_a_picture_never_an_accident(file_format: str) -> None:
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
        except ImageProblem:
            outcomes.add("problem")
    assert outcomes == {"picture", "problem"}


def test_pixels_are_limited_before_they_are_decoded() -> None:
    data = encode(Image.new("1", (20_000, 20_000)))  # 50 kB that would be 1.2 GB as RGB
    assert len(data) < 100_000
    problem = fault(data, max_pixels=64_000_000)
    assert isinstance(problem, TooManyPixels)
    assert (problem.members["width"], problem.members["height"]) == (20_000, 20_000)
    decode(encode(Image.new("RGB", (100, 100))), STANDARD, max_pixels=100 * 100)  # the limit itself is allowed
