"""From bytes to pixels, on real files of every kind that people send."""

from __future__ import annotations

import functools
import io
import zlib

import numpy as np
import pytest
from PIL import Image, ImageOps

from service import formats, imaging
from service.card import Interpolation, Preprocessing
from service.errors import (
    CorruptImage,
    EmptyImage,
    ImageProblem,
    NotAnImage,
    TooManyPixels,
    TruncatedImage,
    UnsupportedImageFormat,
)
from service.imaging import crop_box, decode, open_image, orientation, resize_and_crop, shrink, to_array
from tests.service.png import chunk

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


@functools.cache
def real_photograph(width: int, height: int) -> Image.Image:
    """Of the two photographs that come with scikit-learn, side by side and mirrored until they fill it."""
    datasets = pytest.importorskip("sklearn.datasets", reason="scikit-learn carries the photographs")
    china, flower = datasets.load_sample_images().images
    tile = np.concatenate([china, flower], axis=1)
    tile = np.concatenate([tile, tile[::-1, ::-1]])
    rows, columns = (-(-side // tile.shape[axis]) for axis, side in enumerate((height, width)))
    return Image.fromarray(np.tile(tile, (rows, columns, 1))[:height, :width])


def turned_jpeg(image: Image.Image, turn: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = turn
    return encode(image, "JPEG", exif=exif, quality=92)


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


@pytest.mark.parametrize("scaled", [True, False])
@pytest.mark.parametrize("turn", range(1, 9))
def test_every_orientation_is_shown_as_a_viewer_does(turn: int, scaled: bool) -> None:
    data = turned_jpeg(photograph(90, 75), turn)
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    decoded = decode(data, Preprocessing(resize=60, crop=40), max_pixels=10_000, scaled=scaled)
    assert (decoded.width, decoded.height) == upright.size == ((90, 75) if turn < 5 else (75, 90))
    expected = to_array(resize_and_crop(upright, Preprocessing(resize=60, crop=40))).astype(int)
    # Exchanging the axes exchanges the two passes of the resize, between which values are rounded.
    assert np.abs(decoded.pixels - expected).max() <= (0 if turn < 5 else 1)


@pytest.mark.parametrize("turn", [0, 9, 65535])
def test_an_orientation_that_is_none_is_upright(turn: int) -> None:
    data = turned_jpeg(photograph(90, 61), turn)
    assert orientation(open_image(data, 10_000)) == 1
    plain = decode(encode(photograph(90, 61), "JPEG", quality=92), WHOLE, max_pixels=10_000)
    assert np.array_equal(decode(data, WHOLE, max_pixels=10_000).pixels, plain.pixels)


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
        ((2000, 1800), 100, 8),  # the decoder goes no further
        ((99, 50), 100, 1),
        ((1, 1), 100, 1),
        ((65, 3), 1, 2),
    ],
)
def test_a_jpeg_shrinks_to_no_less_than_what_is_needed(size: tuple[int, int], side: int, divisor: int) -> None:
    image = open_image(encode(Image.new("RGB", size), "JPEG"), 10**9)
    assert shrink(image, side) == divisor
    image.load()
    assert image.size == tuple(-(-length // divisor) for length in size)
    assert divisor == 1 or min(image.size) >= side


@pytest.mark.parametrize("file_format", ["PNG", "WEBP"])
def test_other_formats_do_not_shrink(file_format: str) -> None:
    image = open_image(encode(photograph(900, 800), file_format), 10**9)
    assert shrink(image, 32) == 1
    image.load()
    assert image.size == (900, 800)


@pytest.mark.parametrize("mode", ["L", "CMYK"])
def test_jpegs_of_every_colour_space_shrink(mode: str) -> None:
    image = real_photograph(900, 800).convert(mode)
    data = encode(image, "JPEG", quality=92)
    assert shrink(open_image(data, 10**9), 100) == 8
    assert_close_when_scaled(data, Preprocessing(resize=100, crop=90), (900, 800))


def assert_close_when_scaled(
    data: bytes, preprocessing: Preprocessing, size: tuple[int, int], *, mean: float = 2, largest: int = 32
) -> None:
    """The pixels differ from those of decoding it whole by so many grey levels at most."""
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
def test_the_smallest_that_are_divided_are_close_too(size: tuple[int, int]) -> None:
    data = encode(real_photograph(*size), "JPEG", quality=92)
    assert_close_when_scaled(data, STANDARD, size)


@pytest.mark.parametrize("turn", range(1, 9))
@pytest.mark.parametrize("size", [(1288, 808), (808, 1288)])
def test_a_scaled_photograph_is_close_in_every_orientation(size: tuple[int, int], turn: int) -> None:
    shown = size if turn < 5 else size[::-1]
    assert_close_when_scaled(turned_jpeg(real_photograph(*size), turn), Preprocessing(resize=80, crop=70), shown)


@pytest.mark.parametrize("turn", range(1, 9))
def test_sides_that_the_divisor_does_not_divide_are_close_too(turn: int) -> None:
    size = (1281, 801)  # 160.125 x 100.125 pixels after division by 8, in a picture of 161 x 101
    shown = size if turn < 5 else size[::-1]
    assert_close_when_scaled(turned_jpeg(real_photograph(*size), turn), Preprocessing(resize=80, crop=70), shown)


@pytest.mark.parametrize("turn", [1, 6])
def test_one_that_is_square_only_when_scaled_is_no_square(turn: int) -> None:
    size = (801, 808)  # both are 101 when divided by 8
    shown = size if turn < 5 else size[::-1]
    data = turned_jpeg(real_photograph(*size), turn)
    image = open_image(data, 10**9)
    assert shrink(image, 80) == 8
    image.load()
    assert image.size == (101, 101)
    scaled, whole = (decode(data, Preprocessing(resize=80, crop=70), max_pixels=10**9, scaled=s) for s in (True, False))
    assert (scaled.width, scaled.height) == shown
    assert np.abs(scaled.pixels.astype(int) - whole.pixels).mean() < 2


@pytest.mark.parametrize("size", [(615, 800), (800, 615), (256, 256), (100, 60)])
def test_small_photographs_are_decoded_whole(size: tuple[int, int]) -> None:
    data = encode(photograph(*size), "JPEG")
    scaled, whole = (decode(data, STANDARD, max_pixels=10**9, scaled=scaled) for scaled in (True, False))
    assert np.array_equal(scaled.pixels, whole.pixels)
    assert scaled[1:] == whole[1:] == size


def test_a_scaled_jpeg_is_limited_by_its_full_size() -> None:
    assert isinstance(fault(encode(Image.new("RGB", (2001, 2000)), "JPEG"), max_pixels=2000 * 2000), TooManyPixels)


def test_the_box_is_that_of_the_crop() -> None:
    assert crop_box((256, 256), STANDARD) == (16, 16, 240, 240)
    assert crop_box((1024, 512), STANDARD) == (288, 32, 736, 480)
    assert crop_box((32, 64), WHOLE) == (0, 16, 32, 48)


@pytest.mark.parametrize(
    "data",
    [
        encode(photograph(500, 375)),
        encode(photograph(1201, 97)),
        encode(photograph(500, 375), "JPEG"),
        encode(photograph(500, 375), "WEBP"),
        encode(photograph(2600, 1900), "JPEG"),
        encode(photograph(1, 1)),
        encode(photograph(500, 375).convert("L")),
        encode(photograph(500, 375).convert("P")),
        encode(photograph(500, 375).convert("RGBA")),
        encode(photograph(300, 500)),
    ],
    ids=["PNG", "wide", "JPEG", "WEBP", "large", "pixel", "grey", "palette", "alpha", "tall"],
)
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "lanczos"])
def test_without_the_extension_the_pixels_are_the_same(
    data: bytes, interpolation: Interpolation, monkeypatch: pytest.MonkeyPatch
) -> None:
    preprocessing = Preprocessing(interpolation=interpolation)
    fast = decode(data, preprocessing, max_pixels=10**9)
    monkeypatch.setattr(imaging, "resample", None)
    slow = decode(data, preprocessing, max_pixels=10**9)
    assert np.array_equal(fast.pixels, slow.pixels)
    assert fast[1:] == slow[1:]
    for decoded in (fast, slow):
        assert (decoded.pixels.dtype, decoded.pixels.shape) == (np.uint8, (3, 224, 224))
        assert decoded.pixels.flags.c_contiguous


def test_an_image_that_pillow_keeps_in_several_blocks_has_its_pixels_too() -> None:
    """16 MB are a block. `resample` gets such an image as an array."""
    image = real_photograph(2400, 2000)
    with pytest.raises(ValueError, match=r"memory|block|layout"):
        image.__arrow_c_array__()
    decoded = decode(encode(image, compress_level=1), STANDARD, max_pixels=10**9)
    assert np.array_equal(decoded.pixels, to_array(resize_and_crop(image, STANDARD)))


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


@pytest.mark.parametrize(
    ("largest", "bits"), [(0xFF, 8), (0x100, 10), (0x3FF, 10), (0xFFF, 12), (0x3FFF, 14), (0x4000, 16), (0xFFFF, 16)]
)
def test_16_bit_grey_is_scaled_by_the_bits_that_its_values_need(largest: int, bits: int) -> None:
    """X-rays and depth cameras store 10, 12 or 14 bits in 16."""
    grey = np.full((32, 32), largest // 2, np.uint16)
    grey[16, 16] = largest
    assert corner(encode(Image.fromarray(grey))) == (largest // 2 >> (bits - 8),) * 3


def pixels(data: bytes) -> np.ndarray:
    return decode(data, STANDARD, max_pixels=10_000_000).pixels


def with_chunks(png: bytes, *chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG with chunks behind its header."""
    header = len(formats.PNG) + 25
    made = b"".join(chunk(*one) for one in chunks)
    return png[:header] + made + png[header:]


def test_16_bit_grey_is_scaled_by_what_the_file_says() -> None:
    png = encode(Image.fromarray(np.full((32, 32), 0x123, np.uint16)))
    assert corner(png) == (0x123 >> 2,) * 3
    assert corner(with_chunks(png, (b"sBIT", b"\x0c"))) == (0x12,) * 3
    assert corner(with_chunks(png, (b"tEXt", b"a\0b"), (b"sBIT", b"\x10"))) == (0x01,) * 3
    for nonsense in (b"\x08", b"\x00", b"\xff", b""):  # too few bits for the values, and none that can be
        assert corner(with_chunks(png, (b"sBIT", nonsense))) == (0x123 >> 2,) * 3


def deep_png(samples: np.ndarray) -> bytes:
    """A PNG of 16-bit colours, which Pillow does not write: uint16 (height, width, 3 or 4)."""
    height, width, channels = samples.shape
    header = width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes([16, 2 if channels == 3 else 6, 0, 0, 0])
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in samples)
    return formats.PNG + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND")


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
def test_16_bit_colours_are_scaled_as_grey_is(bits: int) -> None:
    rng = np.random.default_rng(bits)
    eight = rng.integers(0, 256, (64, 48, 3)).astype(np.uint16)
    eight[0, 0] = 255
    noise = rng.integers(0, 1 << (bits - 8), eight.shape).astype(np.uint16)  # what the lower bits hold
    plain = pixels(encode(Image.fromarray(eight.astype(np.uint8))))
    deep = deep_png(eight << (bits - 8) | noise)
    np.testing.assert_array_equal(pixels(deep), plain)
    time = (b"tIME", b"?")  # damaged, and not needed
    np.testing.assert_array_equal(pixels(with_chunks(deep, time)), plain)


@pytest.mark.parametrize("alpha", [0xFFF, 0xFFFF])
def test_16_bit_colours_with_transparency(alpha: int) -> None:
    samples = np.full((32, 32, 4), 0x456, np.uint16)
    samples[16, 16, 0] = 0xFFF
    samples[..., 3] = alpha
    assert corner(deep_png(samples)) == (0x45,) * 3
    samples[..., 3] = 0
    assert corner(deep_png(samples)) == (255, 255, 255)


def test_16_bit_colours_are_scaled_by_what_the_file_says() -> None:
    png = deep_png(np.full((32, 32, 3), 0x123, np.uint16))
    assert corner(png) == (0x123 >> 2,) * 3
    assert corner(with_chunks(png, (b"sBIT", b"\x0c\x0c\x0c"))) == (0x12,) * 3
    assert corner(with_chunks(png, (b"sBIT", b"\x10\x10\x10"))) == (0x01,) * 3


@pytest.mark.parametrize("kind", [b"pHYs", b"gAMA", b"sRGB", b"cHRM", b"tIME", b"bKGD"])
def test_damage_to_what_no_pixel_needs_does_not_matter(kind: bytes) -> None:
    png = encode(photograph(64, 64))
    broken = with_chunks(png, (kind, b"?"))
    np.testing.assert_array_equal(pixels(broken), pixels(png))
    wrong_crc = bytearray(with_chunks(png, (b"pHYs", bytes(9))))
    wrong_crc[len(formats.PNG) + 25 + 17] ^= 1
    np.testing.assert_array_equal(pixels(bytes(wrong_crc)), pixels(png))


def test_text_behind_the_picture_does_not_matter() -> None:
    png = encode(photograph(64, 64))
    text = chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(LONG)))
    np.testing.assert_array_equal(pixels(png[:-12] + text + png[-12:]), pixels(png))


LONG = 11 * 2**20


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
def test_text_and_profiles_of_any_length_do_not_matter(chunk: tuple[bytes, bytes], times: int) -> None:
    png = encode(photograph(64, 64))
    found = pixels(with_chunks(png, (b"gAMA", (45455).to_bytes(4, "big")), *[chunk] * times))
    np.testing.assert_array_equal(found, pixels(png))


def test_text_is_not_looked_for_without_end() -> None:
    png = encode(photograph(64, 64))
    endless = [(b"prVt", b"")] * (formats.MOST_CHUNKS + 1)
    assert isinstance(fault(with_chunks(png, *endless, (b"zTXt", b"a\0\0" + zlib.compress(bytes(LONG))))), CorruptImage)


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}, {"restart_marker_rows": 1}])
@pytest.mark.parametrize("missing", [1, 2])
@pytest.mark.parametrize("size", [(64, 64), (501, 377), (1600, 1200)])
def test_a_jpeg_that_lacks_only_the_marker_of_its_end_is_whole(
    options: dict[str, object], missing: int, size: tuple[int, int]
) -> None:
    jpeg = encode(photograph(*size), "JPEG", **options)
    np.testing.assert_array_equal(pixels(jpeg[:-missing]), pixels(jpeg))


@pytest.mark.parametrize("missing", [8, 20, 100, 1000])
def test_a_jpeg_that_lacks_pixels_is_not(missing: int) -> None:
    jpeg = encode(photograph(501, 377), "JPEG")
    problem = fault(jpeg[:-missing])
    assert isinstance(problem, TruncatedImage)
    assert problem.members["received"] == len(jpeg) - missing


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
    problem = fault(data)
    assert isinstance(problem, NotAnImage)
    assert problem.members["found"] == found


@pytest.mark.parametrize("file_format", ["GIF", "BMP", "TIFF", "AVIF", "JPEG2000", "ICO"])
def test_real_files_of_unsupported_formats_are_named(file_format: str) -> None:
    problem = fault(encode(Image.new("RGB", (64, 64), "red"), file_format))
    assert isinstance(problem, UnsupportedImageFormat)
    assert str(problem.members["format"]).replace(" ", "") == file_format
    assert "JPEG, PNG, WEBP" in str(problem)


def test_jpegs_that_no_decoder_here_reads_are_not_called_damaged() -> None:
    jpeg = bytearray(encode(photograph(64, 64), "JPEG"))
    jpeg[jpeg.index(b"\xff\xc0") + 4] = 12
    problem = fault(bytes(jpeg))
    assert isinstance(problem, UnsupportedImageFormat)
    assert problem.members["format"] == "12-bit JPEG"


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
