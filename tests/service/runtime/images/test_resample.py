"""The C extension `_resample`: every pixel is Pillow's."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from service.runtime.images.resizing import RESAMPLING, Box, resample
from service.runtime.preprocessing import Interpolation

pytestmark = pytest.mark.skipif(
    resample is None, reason="service.runtime.images._resample is not built: it needs a C compiler"
)

FILTERS: tuple[Interpolation, ...] = ("bilinear", "bicubic", "lanczos")


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    """The hardest picture to get right: all neighbours differ, and half of the pixels are black or white."""
    rng = np.random.default_rng(seed)
    values = rng.integers(-128, 384, (height, width, 3)).clip(0, 255)
    return Image.fromarray(values.astype(np.uint8))


def ours(source: object, size: tuple[int, int], out: tuple[int, int], name: str, box: Box | None = None) -> np.ndarray:
    pixels = np.full((3, out[1], out[0]), 77, np.uint8)
    resample(source, *size, name, box or (0, 0, *size), pixels, *out)
    return pixels


def pillows(image: Image.Image, out: tuple[int, int], name: Interpolation, box: Box | None = None) -> np.ndarray:
    return np.asarray(image.resize(out, RESAMPLING[name], box)).transpose(2, 0, 1)


def capsule(image: Image.Image) -> object:
    return image.__arrow_c_array__()[1]


def buffer(image: Image.Image) -> np.ndarray:
    return np.asarray(image.convert("RGBX"))


def vertical_first(size: tuple[int, int], out: tuple[int, int]) -> bool:
    """Whether Pillow 13 makes the vertical pass first. It shows: values are rounded between the passes."""
    (width, height), (out_width, out_height) = size, out
    return out_height < height and height - out_height > 2 * (width - out_width)


def assert_same(image: Image.Image, out: tuple[int, int], name: Interpolation, box: Box | None = None) -> None:
    expected = pillows(image, out, name, box)
    for source in (capsule(image), buffer(image)):
        np.testing.assert_array_equal(ours(source, image.size, out, name, box), expected)


@pytest.mark.parametrize("name", FILTERS)
@pytest.mark.parametrize(
    ("size", "out"),
    [
        ((40, 30), (40, 30)),  # unchanged
        ((40, 30), (13, 11)),
        ((40, 30), (101, 77)),
        ((30, 40), (15, 80)),  # narrower and taller
        ((31, 57), (7, 57)),  # one axis only
        ((31, 57), (31, 90)),
        ((500, 375), (224, 224)),
        ((224, 224), (1, 1)),
        ((1, 1), (5, 4)),
        ((50, 1), (20, 3)),
        ((1, 20), (3, 50)),
        ((2, 2), (1, 1)),
        ((1201, 97), (17, 32)),
        ((1999, 3), (2, 9)),
    ],
)
def test_up_and_down(size: tuple[int, int], out: tuple[int, int], name: Interpolation) -> None:
    assert_same(noise(*size), out, name)


@pytest.mark.parametrize("height", range(1, 14))
def test_any_number_of_rows(height: int) -> None:
    """Several rows are computed at once; the remaining rows are neither forgotten nor made up."""
    assert_same(noise(29, height), (8, 5), "bilinear")
    assert_same(noise(29, 20), (8, 12), "bicubic", (0, 20 - height, 29, 20))


@pytest.mark.parametrize("name", FILTERS)
@pytest.mark.parametrize(("size", "out"), [((40, 30), (80, 15)), ((300, 400), (224, 224)), ((30, 120), (20, 20))])
def test_tall_images_too(size: tuple[int, int], out: tuple[int, int], name: Interpolation) -> None:
    assert vertical_first(size, out)
    assert_same(noise(*size), out, name)


@pytest.mark.parametrize("name", FILTERS)
@pytest.mark.parametrize(
    "box",
    [
        (10, 5, 30, 45),
        (0.25, 0.5, 47.75, 47.125),
        (1 / 3, 2 / 7, 40.1, 40.9),  # not representable: Pillow rounds them to 32-bit floats
        (47.5, 47.5, 48, 48),
        (0, 0, 0.01, 0.01),
        (20.2, 0, 20.3, 48),
        (0, 31.999, 48, 32),
    ],
)
def test_a_part_of_the_image(box: Box, name: Interpolation) -> None:
    for out in ((16, 16), (33, 90), (1, 1)):
        assert_same(noise(48, 48), out, name, box)


@pytest.mark.parametrize("seed", range(60))
def test_random_sizes_and_boxes(seed: int) -> None:
    rng = np.random.default_rng(seed)
    width, height = (int(side) for side in np.exp(rng.uniform(0, 6, 2)))
    out = tuple(int(side) for side in np.exp(rng.uniform(0, 5, 2)))
    if vertical_first((width, height), (out[0], out[1])):
        width, height, out = height, width, out[::-1]
    left, right = np.sort(rng.uniform(0, width, 2))
    top, bottom = np.sort(rng.uniform(0, height, 2))
    assert_same(noise(width, height, seed), (out[0], out[1]), FILTERS[seed % 3], (left, top, right, bottom))


@pytest.mark.parametrize("colour", [(0, 0, 0), (255, 255, 255), (1, 128, 254)])
def test_one_colour_stays_the_same(colour: tuple[int, int, int]) -> None:
    for name in FILTERS:
        found = ours(capsule(Image.new("RGB", (300, 200), colour)), (300, 200), (61, 43), name)
        assert (found == np.array(colour).reshape(3, 1, 1)).all()


def test_the_fourth_byte_is_ignored() -> None:
    pixels = buffer(noise(30, 20)).copy()
    first = ours(pixels, (30, 20), (9, 9), "bicubic")
    pixels[..., 3] = np.random.default_rng(1).integers(0, 256, (20, 30))
    np.testing.assert_array_equal(ours(pixels, (30, 20), (9, 9), "bicubic"), first)


def test_the_source_is_not_changed() -> None:
    image = noise(64, 48)
    before = image.tobytes()
    ours(capsule(image), image.size, (16, 16), "lanczos")
    assert image.tobytes() == before


def test_any_buffer_is_accepted() -> None:
    image = noise(20, 10)
    out = bytearray(3 * 4 * 4)
    resample(image.convert("RGBX").tobytes(), 20, 10, "bilinear", (0, 0, 20, 10), out, 4, 4)
    assert bytes(out) == pillows(image, (4, 4), "bilinear").tobytes()


def call(**changes: object) -> None:
    """Calls `resample` with valid arguments, except for `changes`."""
    arguments = {
        "pixels": np.zeros((10, 20, 4), np.uint8),
        "width": 20,
        "height": 10,
        "interpolation": "bilinear",
        "box": (0, 0, 20, 10),
        "out": np.zeros((3, 4, 5), np.uint8),
        "out_width": 5,
        "out_height": 4,
    }
    resample(*(arguments | changes).values())


def test_the_valid_call_is_valid() -> None:
    call()


def test_an_unknown_filter() -> None:
    with pytest.raises(ValueError, match="unknown interpolation nearest"):
        call(interpolation="nearest")


@pytest.mark.parametrize(
    "box",
    [
        (-0.5, 0, 20, 10),
        (0, -1, 20, 10),
        (0, 0, 20.5, 10),
        (0, 0, 20, 11),
        (5, 0, 5, 10),  # empty
        (0, 8, 20, 3),
        (float("nan"), 0, 20, 10),
        (0, float("nan"), 20, 10),
        (0, 0, float("nan"), 10),
        (0, 0, 20, float("nan")),
        (0, 0, float("inf"), 10),
        (float("-inf"), 0, 20, 10),
    ],
)
def test_a_box_outside_the_image(box: Box) -> None:
    with pytest.raises(ValueError, match="the box does not lie in the image"):
        call(box=box)


@pytest.mark.parametrize("name", ["width", "height", "out_width", "out_height"])
@pytest.mark.parametrize("size", [0, -1])
def test_sizes_are_positive(name: str, size: int) -> None:
    with pytest.raises(ValueError, match="a size is not positive"):
        call(**{name: size})


@pytest.mark.parametrize(
    "changes",
    [
        {"pixels": np.zeros((10, 20, 3), np.uint8)},
        {"pixels": np.zeros((10, 21, 4), np.uint8)},
        {"pixels": b""},
        {"out": np.zeros((3, 4, 4), np.uint8)},
        {"out": np.zeros((4, 4, 5), np.uint8)},
        {"width": 10},
        {"height": 2**31 - 1},
        {"out_height": 2**31 - 1},
    ],
)
def test_a_buffer_of_the_wrong_size(changes: dict[str, object]) -> None:
    if "width" in changes:
        changes = {**changes, "box": (0, 0, 10, 10)}
    with pytest.raises(ValueError, match="a buffer does not have the size given"):
        call(**changes)


def test_an_image_of_the_wrong_size() -> None:
    with pytest.raises(ValueError, match="a buffer does not have the size given"):
        call(pixels=capsule(noise(21, 10)))


def test_read_only_and_non_contiguous_buffers() -> None:
    frozen = np.zeros((3, 4, 5), np.uint8)
    frozen.setflags(write=False)
    with pytest.raises(ValueError, match="read-only"):
        call(out=frozen)
    with pytest.raises(BufferError):
        call(out=bytes(3 * 4 * 5))
    with pytest.raises(ValueError, match="not C-contiguous"):
        call(out=np.zeros((4, 5, 3), np.uint8).transpose(2, 0, 1))
    with pytest.raises(ValueError, match="not C-contiguous"):
        call(pixels=np.zeros((10, 40, 4), np.uint8)[:, ::2])


def test_an_image_without_four_bytes_per_pixel() -> None:
    with pytest.raises(ValueError, match="the image does not have 4 bytes per pixel"):
        call(pixels=capsule(Image.new("L", (20, 10))))


def test_a_capsule_of_something_else() -> None:
    schema, _ = noise(20, 10).__arrow_c_array__()
    with pytest.raises(ValueError, match="incorrect name"):
        call(pixels=schema)


def test_arguments_that_are_not_buffers() -> None:
    with pytest.raises(TypeError):
        call(pixels=None)
    with pytest.raises(TypeError):
        call(out="text")
