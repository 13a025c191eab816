"""Distributions of crops, scales, flips and colours, measured on images whose pixels encode their position."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from model_export.training.augment import Palette, colour_shift, erase, mix, training_view
from model_export.training.recipe import Recipe, override
from model_export.training.recipes import RECIPES

GREY = (100, 110, 120)


def ramp(width: int, height: int) -> Image.Image:
    """Red grows from left to right (0 to 255), green from top to bottom."""
    x = np.linspace(0, 255, width)[None, :].repeat(height, 0)
    y = np.linspace(0, 255, height)[:, None].repeat(width, 1)
    return Image.fromarray(np.stack([x, y, np.zeros_like(x)], axis=2).round().astype(np.uint8))


def views(image: Image.Image, recipe: Recipe, count: int = 400, size: int | None = None) -> np.ndarray:
    """uint8 (count, size, size, 3)."""
    size = size or recipe.size
    return np.stack(
        [np.asarray(training_view(image, recipe, size, GREY, np.random.default_rng((7, i)))) for i in range(count)]
    )


def spans(seen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The shares of the ramp's width and height that each view shows."""
    across = np.abs(seen[:, 0, -1, 0].astype(float) - seen[:, 0, 0, 0]) / 255
    down = (seen[:, -1, 0, 1].astype(float) - seen[:, 0, 0, 1]) / 255
    return across, down


def test_scale_draws_the_shorter_side_from_256_to_480_and_a_random_square_of_224() -> None:
    recipe = RECIPES["paper-imagenet"]
    seen = views(ramp(400, 300), recipe)
    across, down = spans(seen)
    sides = 224 / down  # of the resized image's shorter side
    assert sides.min() == pytest.approx(256, abs=4)
    assert sides.max() == pytest.approx(480, abs=10)
    assert sides.mean() == pytest.approx(368, abs=10)  # uniform
    assert np.histogram(sides, bins=4, range=(256, 480))[0].min() > 70
    assert across * 400 == pytest.approx(down * 300, abs=6)  # squares stay squares

    top = seen[:, 0, 0, 1] / 255
    room = 1 - down
    position = (top / room)[room > 0.15]
    assert np.histogram(position, bins=4, range=(0, 1.02))[0].min() > 0.18 * len(position)  # uniform


def test_a_square_as_large_as_the_image_still_fits() -> None:
    recipe = override(RECIPES["paper-imagenet"], {"scale": [224, 226]})
    assert views(ramp(300, 225), recipe, 200, size=224).shape == (200, 224, 224, 3)


def test_half_of_the_images_are_flipped() -> None:
    mirrored = views(ramp(64, 48), override(RECIPES["paper-imagenet"], {}))[:, 0]
    share = (mirrored[:, 0, 0] > mirrored[:, -1, 0]).mean()
    assert share == pytest.approx(0.5, abs=0.06)
    unmirrored = views(ramp(64, 48), override(RECIPES["paper-imagenet"], {"mirror": "no"}), 50)[:, 0]
    assert (unmirrored[:, 0, 0] < unmirrored[:, -1, 0]).all()


def test_pad_shifts_by_up_to_four_pixels_either_way_evenly() -> None:
    recipe = override(RECIPES["paper-cifar"], {"mirror": "no"})
    dot = np.full((32, 32, 3), 200, np.uint8)
    dot[16, 16] = 0
    shifts = [np.argwhere(view[:, :, 0] == 0)[0] - 16 for view in views(Image.fromarray(dot), recipe, 2000)]
    for axis in (0, 1):
        values, counts = np.unique([shift[axis] for shift in shifts], return_counts=True)
        assert values.tolist() == list(range(-4, 5))
        assert counts.min() > 2000 / 9 * 0.7
    border = views(Image.fromarray(dot), recipe, 200)
    assert {tuple(colour) for colour in border.reshape(-1, 3).tolist()} == {(200, 200, 200), (0, 0, 0), GREY}


def test_pad_accepts_images_of_other_sizes() -> None:
    assert views(ramp(100, 60), RECIPES["paper-cifar"], 3).shape == (3, 32, 32, 3)


def test_area_draws_areas_and_aspects_as_szegedy_et_al_do() -> None:
    recipe = RECIPES["modern"]
    across, down = spans(views(ramp(500, 500), recipe, 600))
    areas, aspects = across * down, across / down
    assert 0.07 < areas.min() < 0.12
    assert areas.max() > 0.85
    # Uniform between 0.08 and 1, except for large areas whose aspect does not fit into the square image.
    assert np.median(areas) == pytest.approx(0.474, abs=0.04)
    assert aspects.min() > 0.72
    assert aspects.max() < 1.39
    assert np.median(np.log(aspects)) == pytest.approx(0, abs=0.05)


def test_area_of_a_narrow_image_falls_back_to_the_largest_square() -> None:
    recipe = override(RECIPES["modern"], {"area": ["1.0", "1.0"], "mirror": "no"})
    (view,) = views(ramp(900, 90), recipe, 1)
    assert view[:, 0, 0].mean() / 255 == pytest.approx(0.45, abs=0.01)
    assert view[:, -1, 0].mean() / 255 == pytest.approx(0.55, abs=0.01)


def test_centre_shows_the_same_part_as_testing_at_the_size_of_training() -> None:
    recipe = override(RECIPES["demo"], {})
    (view,) = views(ramp(300, 300), recipe, 1, size=112)
    assert view.shape == (112, 112, 3)
    margin = (1 - 224 / 256) / 2
    assert view[0, 0, 0] / 255 == pytest.approx(margin, abs=0.01)
    assert view[0, -1, 0] / 255 == pytest.approx(1 - margin, abs=0.01)


def test_erase_paints_one_rectangle_of_the_right_size() -> None:
    shares = []
    for i in range(300):
        pixels = np.zeros((3, 100, 100), np.uint8)
        erase(pixels, GREY, np.random.default_rng((1, i)))
        painted = (pixels == np.array(GREY, np.uint8)[:, None, None]).all(0)
        rows, columns = np.flatnonzero(painted.any(1)), np.flatnonzero(painted.any(0))
        assert painted[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all()
        shares.append(painted.mean())
    assert min(shares) > 0.015
    assert max(shares) < 0.34
    assert np.mean(shares) == pytest.approx(0.17, abs=0.02)


def test_colours_shift_along_the_principal_components() -> None:
    """By a normally distributed number of standard deviation 0.1, times the colours' deviation along the component."""
    axes = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0]
    deviations = np.array([55.0, 5.0, 1.0])
    palette = Palette(np.zeros(3), axes * deviations)
    shifts = np.stack([colour_shift(palette, 0.1, np.random.default_rng(i)) for i in range(4000)])
    assert shifts.dtype == np.float32
    along = shifts @ axes
    assert along.std(0) == pytest.approx(0.1 * deviations, rel=0.05)
    assert along.mean(0) == pytest.approx([0, 0, 0], abs=0.3)


# --- batches -------------------------------------------------------------------------------------------------------


@pytest.fixture
def batch() -> tuple[torch.Tensor, torch.Tensor]:
    """Image i has the value i everywhere and class i."""
    return torch.arange(4.0)[:, None, None, None].expand(4, 3, 20, 20).clone(), torch.eye(4)


def test_mixup_mixes_images_and_labels_in_the_same_proportion(batch: tuple[torch.Tensor, torch.Tensor]) -> None:
    recipe = override(RECIPES["modern"], {"cutmix": 0})
    shares = []
    for i in range(300):
        images, targets = mix(*batch, recipe, np.random.default_rng(i))
        share = float(targets[1, 1])
        shares.append(share)
        assert torch.allclose(images[1], torch.tensor(share * 1.0 + (1 - share) * 0.0), atol=1e-6)
        assert targets.sum(1).tolist() == pytest.approx([1] * 4)
        assert float(targets[1, 0]) == pytest.approx(1 - share)
    # Beta(0.2, 0.2): mostly near 0 or 1; its variance is 1 / (4 (2 alpha + 1)).
    assert np.var(shares) == pytest.approx(1 / (4 * 1.4), rel=0.15)
    assert np.mean(shares) == pytest.approx(0.5, abs=0.07)


def test_cutmix_pastes_a_rectangle_and_weights_labels_by_area(batch: tuple[torch.Tensor, torch.Tensor]) -> None:
    recipe = override(RECIPES["modern"], {"mixup": 0})
    shares = []
    for i in range(300):
        images, targets = mix(*batch, recipe, np.random.default_rng(i))
        own = float((images[2] == 2).float().mean())
        assert own + float((images[2] == 1).float().mean()) == pytest.approx(1)
        assert float(targets[2, 2]) == pytest.approx(own, abs=1e-6)
        shares.append(own)
    assert min(shares) < 0.2  # shares are uniform, except for rectangles cut off by the border
    assert max(shares) > 0.95
    assert batch[0][2].unique().tolist() == [2.0]  # the caller's images are unchanged


def test_with_both_one_is_drawn_for_each_batch(batch: tuple[torch.Tensor, torch.Tensor]) -> None:
    cut = 0
    for i in range(200):
        images, _ = mix(*batch, RECIPES["modern"], np.random.default_rng(i))
        cut += set(images[3].unique().tolist()) <= {3.0, 2.0}
    assert 60 < cut < 150


def test_without_either_a_batch_is_unchanged(batch: tuple[torch.Tensor, torch.Tensor]) -> None:
    images, targets = mix(*batch, RECIPES["paper-imagenet"], np.random.default_rng(0))
    assert images is batch[0]
    assert targets is batch[1]
