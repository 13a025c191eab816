"""Augmentation of training images. All randomness comes from the generator that the caller passes.

Per image, in the loader's workers: `training_view`, `erase` and `colour_shift`. Per batch, on the device: `mix`. Pixels
stay uint8 until they reach the device; the colour shift, which is fractional, travels beside them.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from model_export.training.recipe import Recipe
from service.runtime.images.resizing import RESAMPLING, network_view
from service.runtime.preprocessing import Preprocessing

ASPECT = (3 / 4, 4 / 3)  # of the rectangles of `area` (Szegedy et al. 2015)
ERASED_AREA = (0.02, 0.33)  # of the rectangles of `erasing`, as in torchvision
ERASED_ASPECT = (0.3, 3.3)
ATTEMPTS = 10  # to draw a rectangle that fits

Rng = np.random.Generator
Box = tuple[float, float, float, float]  # left, top, right, bottom


class Palette(NamedTuple):
    """The distribution of the colours of a training set; values in 0 to 255."""

    mean: np.ndarray  # float (3,), RGB
    components: np.ndarray  # float (3, 3): columns are principal components, scaled by their standard deviation


def training_view(image: Image.Image, recipe: Recipe, size: int, fill: tuple[int, int, int], rng: Rng) -> Image.Image:
    """A random crop of an RGB image, `size` pixels high, perhaps mirrored, as the recipe says.

    Args:
        fill: the colour of the border of `pad` crops.
    """
    if recipe.crop == "pad":
        view = _padded_crop(image, recipe, size, fill, rng)
    elif recipe.crop == "centre":
        view = network_view(image, recipe.preprocessing(Preprocessing(), size))
    else:
        box = _scale_box(image, recipe, size, rng) if recipe.crop == "scale" else _area_box(image, recipe, rng)
        view = image.resize((recipe.width or size, size), RESAMPLING[recipe.interpolation], box)
    return ImageOps.mirror(view) if recipe.mirror and rng.random() < 0.5 else view


def _scale_box(image: Image.Image, recipe: Recipe, size: int, rng: Rng) -> Box:
    """A random square of the image resized to a random shorter side, in source pixels (section 3.4)."""
    low, high = recipe.scale
    shorter = int(rng.integers(low, high, endpoint=True)) * size / recipe.size
    scale = min(image.size) / shorter  # source pixels per pixel of the view
    side = min(size * scale, *image.size)  # rounding may make it larger than the image
    left, top = (rng.uniform(0, length - side) for length in image.size)
    return left, top, left + side, top + side


def _area_box(image: Image.Image, recipe: Recipe, rng: Rng) -> Box:
    """A random rectangle by area and aspect ratio; if ten of them do not fit, the largest square in the centre."""
    width, height = image.size
    for _ in range(ATTEMPTS):
        area = width * height * rng.uniform(*recipe.area)
        aspect = math.exp(rng.uniform(math.log(ASPECT[0]), math.log(ASPECT[1])))
        w, h = math.sqrt(area * aspect), math.sqrt(area / aspect)
        if w <= width and h <= height:
            left, top = rng.uniform(0, width - w), rng.uniform(0, height - h)
            return left, top, left + w, top + h
    side = min(width, height)
    left, top = (width - side) / 2, (height - side) / 2
    return left, top, left + side, top + side


def _padded_crop(image: Image.Image, recipe: Recipe, size: int, fill: tuple[int, int, int], rng: Rng) -> Image.Image:
    """A random square of the image with a border of `padding` pixels (section 4.2)."""
    if image.size != (size, size):
        preprocessing = Preprocessing(resize=size, crop=size, interpolation=recipe.interpolation)
        image = network_view(image, preprocessing)
    left, top = rng.integers(0, 2 * recipe.padding, 2, endpoint=True)
    view = Image.new("RGB", (size, size), fill)
    view.paste(image, (recipe.padding - int(left), recipe.padding - int(top)))
    return view


def erase(pixels: np.ndarray, fill: tuple[int, int, int], rng: Rng) -> None:
    """Fills a random rectangle of uint8 pixels `(3, H, W)` with one colour, in place (Zhong et al. 2017)."""
    _, height, width = pixels.shape
    for _ in range(ATTEMPTS):
        area = height * width * rng.uniform(*ERASED_AREA)
        aspect = math.exp(rng.uniform(math.log(ERASED_ASPECT[0]), math.log(ERASED_ASPECT[1])))
        h, w = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < h < height and 0 < w < width:
            top, left = int(rng.integers(0, height - h + 1)), int(rng.integers(0, width - w + 1))
            pixels[:, top : top + h, left : left + w] = np.array(fill, np.uint8)[:, None, None]
            return


def colour_shift(palette: Palette, deviation: float, rng: Rng) -> np.ndarray:
    """A shift to add to every pixel of an image: float32 (3,), in units of 0 to 255.

    As AlexNet's augmentation (Krizhevsky et al. 2012, section 4.1) but for the unit: each principal component of the
    training set's colours, times its standard deviation, times a normally distributed number of standard deviation
    `deviation` (0.1 in the paper), drawn once per image and component. AlexNet multiplies by the eigenvalue, which is
    the variance: what that does depends on whether pixels go to 1 or to 255, and the paper does not say.
    """
    return (palette.components @ rng.normal(0, deviation, 3)).astype(np.float32)


def mix(images: Tensor, targets: Tensor, recipe: Recipe, rng: Rng) -> tuple[Tensor, Tensor]:
    """Mixup or CutMix of a batch with itself shifted by one image; unchanged if the recipe has neither.

    Args:
        images: float `(N, 3, H, W)`, normalised.
        targets: float `(N, classes)`, probabilities.

    Returns:
        images and targets of the same shapes.
    """
    kinds = [kind for kind in ("mixup", "cutmix") if getattr(recipe, kind)]
    if not kinds:
        return images, targets
    kind = kinds[rng.integers(len(kinds))]
    alpha: float = getattr(recipe, kind)
    share = float(rng.beta(alpha, alpha))  # of the image itself in the mixture
    others = images.roll(1, 0)
    if kind == "mixup":
        images = torch.lerp(others, images, share)
    else:
        height, width = images.shape[2:]
        h, w = int(height * math.sqrt(1 - share)), int(width * math.sqrt(1 - share))
        y, x = int(rng.integers(height)), int(rng.integers(width))
        top, bottom = max(0, y - h // 2), min(height, y + h // 2)
        left, right = max(0, x - w // 2), min(width, x + w // 2)
        images = images.clone()
        images[:, :, top:bottom, left:right] = others[:, :, top:bottom, left:right]
        share = 1 - (bottom - top) * (right - left) / (height * width)
    return images, torch.lerp(targets.roll(1, 0), targets, share)
