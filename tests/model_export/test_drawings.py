from __future__ import annotations

import io
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageChops

from model_export.drawings import CLASSES, MAX_ASPECT, PATTERNS, SHAPES, draw, draw_jpeg, label_of, main, mask, picture

LABELS = range(len(CLASSES))


def rng(*seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


def as_served(image: Image.Image, size: int = 64) -> np.ndarray:
    """The centre that serving sees, at a handy size."""
    shorter = min(image.size) * 224 / 256
    left, top = (image.width - shorter) / 2, (image.height - shorter) / 2
    return np.asarray(image.resize((size, size), box=(left, top, left + shorter, top + shorter)), np.float32)


def test_class_names_are_plain_and_distinct() -> None:
    assert len(CLASSES) >= 10
    assert len(set(CLASSES)) == len(CLASSES)
    assert all(name.isalpha() and name.islower() for name in CLASSES)


def test_an_unknown_class_is_refused() -> None:
    with pytest.raises(IndexError):
        draw(len(CLASSES), rng(0))


@pytest.mark.parametrize("label", LABELS, ids=CLASSES)
def test_pictures_have_the_sizes_of_photographs(label: int) -> None:
    sizes = set()
    for i in range(20):
        image = draw(label, rng(label, i))
        assert image.mode == "RGB"
        assert 240 <= min(image.size) <= 480
        assert max(image.size) <= MAX_ASPECT * min(image.size)
        sizes.add(image.size)
    assert len(sizes) > 15
    assert any(width > height for width, height in sizes)
    assert any(width < height for width, height in sizes)


@pytest.mark.parametrize("label", LABELS, ids=CLASSES)
def test_the_generator_alone_decides_the_picture(label: int) -> None:
    assert draw(label, rng(1)) == draw(label, rng(1))
    assert draw(label, rng(1)) != draw(label, rng(2))
    assert draw_jpeg(label, rng(1)) == draw_jpeg(label, rng(1))


def test_a_data_set_is_the_same_in_any_order() -> None:
    forwards = [picture(7, index) for index in range(24)]
    backwards = [picture(7, index) for index in reversed(range(24))]
    assert forwards == backwards[::-1]
    assert len(set(forwards)) == 24
    assert picture(8, 0) != picture(7, 0)


def test_a_data_set_has_its_classes_in_turn() -> None:
    labels = [label_of(index) for index in range(3 * len(CLASSES))]
    assert labels == [*LABELS] * 3
    assert picture(7, 5) == draw_jpeg(label_of(5), rng(7, 5))


@pytest.mark.parametrize("label", LABELS, ids=CLASSES)
def test_jpegs_are_what_was_drawn(label: int) -> None:
    image = Image.open(io.BytesIO(draw_jpeg(label, rng(3, label))))
    drawn = draw(label, rng(3, label))
    assert image.format == "JPEG"
    assert image.size == drawn.size
    assert np.abs(as_served(image.convert("RGB")) - as_served(drawn)).mean() < 10


def test_jpeg_quality_varies() -> None:
    tables = {Image.open(io.BytesIO(picture(0, index))).quantization[0][0] for index in range(40)}
    assert len(tables) > 5


def test_some_pictures_are_grey() -> None:
    channels = [np.asarray(draw(label_of(index), rng(0, index))) for index in range(120)]
    grey = [bool((pixels == pixels[..., :1]).all()) for pixels in channels]
    assert 1 <= sum(grey) <= 30


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("size", [(360, 240), (240, 360), (480, 480)])
def test_shapes_lie_inside_what_serving_sees(name: str, size: tuple[int, int]) -> None:
    margin_x, margin_y = ((side - min(size) * 224 / 256) / 2 for side in size)
    for i in range(60):
        box = mask(CLASSES.index(name), size, rng(i)).getbbox()
        assert box is not None
        left, top, right, bottom = box
        # A pixel of grace: anti-aliasing and Pillow's outlines reach just past the corner.
        assert margin_x - 1.5 <= left < right <= size[0] - margin_x + 1.5
        assert margin_y - 1.5 <= top < bottom <= size[1] - margin_y + 1.5
        assert max(right - left, bottom - top) > 0.3 * min(size)  # large enough to be seen


@pytest.mark.parametrize("name", PATTERNS)
def test_patterns_fill_the_picture(name: str) -> None:
    for i in range(20):
        coverage = np.asarray(mask(CLASSES.index(name), (360, 240), rng(i))) / 255
        thirds = [part for rows in np.array_split(coverage, 2) for part in np.array_split(rows, 3, axis=1)]
        assert all(0.05 < part.mean() < 0.95 for part in thirds)


@pytest.mark.parametrize("label", LABELS, ids=CLASSES)
def test_masks_are_two_tones_with_soft_edges(label: int) -> None:
    coverage = np.asarray(mask(label, (320, 320), rng(label)))
    inside, outside = (coverage == 255).mean(), (coverage == 0).mean()
    assert inside + outside > 0.75
    assert min(inside, outside) > 0.02
    assert inside + outside < 1


@pytest.mark.parametrize("label", LABELS, ids=CLASSES)
def test_the_figure_stands_out_from_its_ground(label: int) -> None:
    for i in range(20):
        # `draw` draws the size first, then the mask, from the same generator.
        image = draw(label, rng(i)).convert("L")
        replay = rng(i)
        replay.integers(240, 480, endpoint=True), replay.uniform(), replay.random()
        coverage = np.asarray(mask(label, image.size, replay))
        luma = np.asarray(image, np.float32)
        assert abs(luma[coverage == 255].mean() - luma[coverage == 0].mean()) > 35


def test_a_circle_is_full_and_a_ring_is_hollow() -> None:
    for i in range(20):
        circle, ring = (mask(CLASSES.index(name), (300, 300), rng(i)) for name in ("circle", "ring"))
        assert _at_middle(circle) == 255
        assert _at_middle(ring) == 0


def _at_middle(image: Image.Image) -> int:
    left, top, right, bottom = image.getbbox() or (0, 0, 0, 0)
    return int(np.asarray(image)[(top + bottom) // 2, (left + right) // 2])


def test_no_two_classes_draw_the_same_figure() -> None:
    figures = [mask(label, (240, 240), rng(0)) for label in LABELS]
    for i in LABELS:
        for j in range(i):
            assert np.asarray(ImageChops.difference(figures[i], figures[j])).mean() > 2


def test_the_sheet_shows_every_class(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "drawings.png"
    monkeypatch.setattr(sys, "argv", ["drawings", str(out)])
    main()
    with Image.open(out) as sheet:
        assert sheet.format == "PNG"
        assert sheet.width > 600
