from __future__ import annotations

import hashlib
import io
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image, ImageChops

from model_export.drawings.patterns import PATTERNS
from model_export.drawings.pictures import CLASSES, STYLES, Difficulty, Style, draw, draw_jpeg, mask, picture
from model_export.drawings.shapes import SHAPES

LABELS = range(len(CLASSES))


def rng(*seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


def as_served(image: Image.Image, size: int = 64) -> np.ndarray:
    """The centre that serving sees, resized to `size` squared."""
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


def test_standard_pictures_never_change() -> None:
    """Demos, self-tests and stored results were made with them. (Pixels, not JPEGs: encoders may differ.)"""
    digest = hashlib.sha256()
    for i in range(48):
        digest.update(draw(i % len(CLASSES), rng(5, i)).tobytes())
    assert digest.hexdigest() == "f1ab914145c4da7ac8497cbcc508057330c1d0572cb5be0e5124328a92fc0b94"


@pytest.mark.parametrize("label", LABELS, ids=CLASSES)
def test_pictures_have_the_sizes_of_photographs(label: int) -> None:
    sizes = set()
    for i in range(20):
        image = draw(label, rng(label, i))
        assert image.mode == "RGB"
        assert 240 <= min(image.size) <= 480
        assert max(image.size) <= 1.5 * min(image.size)
        sizes.add(image.size)
    assert len(sizes) > 15
    assert any(width > height for width, height in sizes)
    assert any(width < height for width, height in sizes)


@pytest.mark.parametrize("label", LABELS, ids=CLASSES)
def test_the_generator_alone_decides_the_picture(label: int) -> None:
    assert draw(label, rng(1)) == draw(label, rng(1))
    assert draw(label, rng(1)) != draw(label, rng(2))
    assert draw_jpeg(label, rng(1)) == draw_jpeg(label, rng(1))


def test_a_series_is_the_same_in_any_order() -> None:
    forwards = [picture(7, index) for index in range(24)]
    backwards = [picture(7, index) for index in reversed(range(24))]
    assert forwards == backwards[::-1]
    assert len(set(forwards)) == 24
    assert picture(8, 0) != picture(7, 0)


def test_classes_come_in_turn() -> None:
    for index in (0, 5, len(CLASSES), 2 * len(CLASSES) + 5):
        assert picture(7, index) == draw_jpeg(index % len(CLASSES), rng(7, index))
    assert picture(7, 5, classes=("ring", "heart")) == draw_jpeg(CLASSES.index("heart"), rng(7, 5))


@pytest.mark.parametrize("label", LABELS, ids=CLASSES)
def test_jpegs_are_what_was_drawn(label: int) -> None:
    image = Image.open(io.BytesIO(draw_jpeg(label, rng(3, label))))
    original = draw(label, rng(3, label))
    assert image.format == "JPEG"
    assert image.size == original.size
    assert np.abs(as_served(image.convert("RGB")) - as_served(original)).mean() < 10


def test_jpeg_quality_varies() -> None:
    tables = {Image.open(io.BytesIO(picture(0, index))).quantization[0][0] for index in range(40)}
    assert len(tables) > 5


def test_some_pictures_are_grey() -> None:
    channels = [np.asarray(draw(index % len(CLASSES), rng(0, index))) for index in range(120)]
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
def test_masks_have_two_tones_and_soft_edges(label: int) -> None:
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


def deviation(style: Style, labels: list[int]) -> tuple[float, float]:
    """How far figures stand out from their grounds, in luma, and how much the grounds vary: means over pictures."""
    contrasts, variations = [], []
    for label in labels:
        for i in range(6):
            square = style.square(160)
            image = np.asarray(draw(label, rng(i), square).convert("L"), np.float32)
            replay = rng(i)
            replay.integers(160, 160, endpoint=True), replay.uniform(), replay.random()
            coverage = np.asarray(mask(label, (160, 160), replay, square))
            contrasts.append(abs(image[coverage == 255].mean() - image[coverage == 0].mean()))
            variations.append(image[coverage == 0].std())
    return float(np.mean(contrasts)), float(np.mean(variations))


def test_each_style_is_harder_than_the_one_before() -> None:
    easy, standard, hard = (deviation(STYLES[name], [*LABELS]) for name in ("easy", "standard", "hard"))
    assert easy[0] > standard[0] > hard[0] > 40
    assert easy[1] < 1  # plain, up to the softness of edges
    assert easy[1] < standard[1] < hard[1]


def test_hard_shapes_may_be_upside_down() -> None:
    """A heart is widest above its middle; upside down, below."""
    upright = []
    for i in range(20):
        figure = mask(CLASSES.index("heart"), (160, 160), rng(i), STYLES["hard"])
        rows = np.asarray(figure.crop(figure.getbbox())).sum(axis=1, dtype=int)
        upright.append(rows[: len(rows) // 2].sum() > rows[len(rows) // 2 :].sum())
    assert 3 < sum(upright) < 17


@pytest.mark.parametrize("difficulty", STYLES)
@pytest.mark.parametrize("side", [32, 96])
def test_squares_of_any_size(difficulty: Difficulty, side: int) -> None:
    style = STYLES[difficulty].square(side)
    for index in range(24):
        with Image.open(io.BytesIO(picture(3, index, style))) as image:
            assert image.size == (side, side)
    assert style == replace(STYLES[difficulty], shorter_side=(side, side), max_aspect=1.0)
    assert picture(3, 0, style) != picture(3, 0, STYLES[difficulty])


@pytest.mark.parametrize("name", [*SHAPES, *PATTERNS])
@pytest.mark.parametrize("difficulty", STYLES)
def test_small_figures_keep_their_details(name: str, difficulty: Difficulty) -> None:
    """At 32 pixels neither lines nor gaps are so thin that they blur into each other."""
    for i in range(30):
        coverage = np.asarray(mask(CLASSES.index(name), (32, 32), rng(i), STYLES[difficulty].square(32))) / 255
        top, bottom = coverage.max(), coverage.min()
        assert top > 0.9
        assert bottom < 0.1
        assert 0.005 < (coverage > 0.5).mean() < 0.85
    if name in ("ring", "spiral", "stripes", "checkerboard", "dots"):
        sharp = (coverage > 0.8) | (coverage < 0.2)
        assert sharp.mean() > 0.4


def test_a_style_without_strokes_or_noise_is_plain() -> None:
    image = draw(CLASSES.index("square"), rng(1), STYLES["easy"].square(200))
    assert len(image.getcolors(maxcolors=40_000) or []) < 300  # two colours and the mixtures on the edge
    crossed = draw(CLASSES.index("square"), rng(1), replace(STYLES["easy"].square(200), strokes=5))
    assert (np.asarray(image) != np.asarray(crossed)).any(axis=2).mean() > 0.005


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
