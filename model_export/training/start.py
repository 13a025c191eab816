"""What a run begins with: a network, new or with trained weights and a new head, and how images are normalised."""

from __future__ import annotations

import logging
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from model_export.datasets.base import Dataset
from model_export.errors import InputError
from model_export.labels import imagenet_labels
from model_export.resnet import ResNet, build
from model_export.training import checkpoint
from model_export.training.augment import Palette
from model_export.training.recipe import Recipe, override
from model_export.training.statistics import statistics
from model_export.weight_files import MEAN_IMAGE, Record
from model_export.weights import Loaded, usual_preprocessing
from service.card import Architecture, Label, Preprocessing

log = logging.getLogger(__name__)


class Start(NamedTuple):
    """What a run begins with, besides its recipe and its data."""

    net: ResNet
    labels: tuple[Label, ...]
    preprocessing: Preprocessing  # of testing and serving
    mean_image: Tensor | None  # float32 (3, crop, crop), 0 to 255
    palette: Palette

    @property
    def record(self) -> Record:
        return Record(architecture=self.net.architecture, preprocessing=self.preprocessing, labels=self.labels)


def begin(
    architecture: Architecture, recipe: Recipe, train: Dataset, *, loaded: Loaded | None = None, seed: int = 0
) -> Start:
    """A new run's start: He-initialised by the seed, or with weights to go on from.

    Args:
        architecture: `num_classes` is that of `train`.
        loaded: weights of the same architecture, of any classes: where these differ, the last layer is new.

    Raises:
        InputError: `normalisation` is that of weights and there are none, or an image is broken.
        ValueError: there is no such network.
    """
    labels = labels_of(train.classes)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = build(architecture)
    if loaded is not None:
        same_classes = [label.name for label in loaded.labels] == [label.name for label in labels]
        state = {n: t for n, t in loaded.net.state_dict().items() if same_classes or not n.startswith("fc.")}
        net.load_state_dict(state, strict=False)
        log.info("weights of %s, with %s", loaded.weights.source, "its classes" if same_classes else "a new last layer")

    preprocessing, mean_image, palette = _normalisation(architecture, recipe, train, loaded)
    return Start(net, labels, preprocessing, mean_image, palette)


def resume(content: checkpoint.Content) -> Start:
    """A resumed run's start, from its checkpoint; the weights themselves are restored by the trainer."""
    record = Record.model_validate({name: content[name] for name in Record.model_fields if name in content})
    assert record.architecture is not None  # `train` wrote them all
    assert record.preprocessing is not None
    assert record.labels is not None
    palette = Palette(*(np.array(values) for values in content["palette"]))
    return Start(build(record.architecture), record.labels, record.preprocessing, content[MEAN_IMAGE], palette)


def fitted(recipe: Recipe, loaded: Loaded, given: set[str]) -> Recipe:
    """The recipe at the sizes that the weights were trained for, except what the user has given."""
    p = loaded.preprocessing
    sizes = {"size": p.crop, "test_size": p.crop, "test_resize": p.resize, "interpolation": p.interpolation}
    return override(recipe, {name: value for name, value in sizes.items() if name not in given})


def labels_of(classes: tuple[str, ...]) -> tuple[Label, ...]:
    """Labels for the classes of a data set; folders named by ImageNet's WordNet ids get ImageNet's names."""
    known = {label.wnid: label for label in imagenet_labels()}
    if all(name in known for name in classes):
        return tuple(known[name] for name in classes)
    return tuple(Label(name=name) for name in classes)


def check_weights(recipe: Recipe, loaded: Loaded | None) -> None:
    """Raises InputError where a recipe goes on from weights and there are none."""
    if recipe.normalisation == "weights" and loaded is None:
        raise InputError(
            f"recipe {recipe.name} goes on from trained weights: give --weights imagenet or a file, or take another "
            "recipe"
        )


def _normalisation(
    architecture: Architecture, recipe: Recipe, train: Dataset, loaded: Loaded | None
) -> tuple[Preprocessing, Tensor | None, Palette]:
    if recipe.normalisation == "weights":
        check_weights(recipe, loaded)
        assert loaded is not None
        usual, mean_image = loaded.preprocessing, loaded.mean_image
    else:
        usual, mean_image = usual_preprocessing(architecture.family), None
    preprocessing = usual.model_copy(
        update={"resize": recipe.test_resize, "crop": recipe.test_size, "interpolation": recipe.interpolation}
    )
    if mean_image is not None and mean_image.shape[1:] != (recipe.test_size, recipe.test_size):
        raise InputError(
            f"the weights have a mean for each of {mean_image.shape[1]} x {mean_image.shape[2]} pixels: leave --size "
            "and --test-size as they are"
        )
    if recipe.normalisation != "mean-image" and not recipe.pca_colour:
        return preprocessing, mean_image, _plain_palette(preprocessing)
    found = statistics(train, preprocessing)
    if recipe.normalisation == "mean-image":
        r, g, b = (found.palette.mean / 255).tolist()
        # The paper subtracts and does not divide. (The first batch norm makes any factor immaterial.)
        unit = 1 / 255
        update = {"mean": (r, g, b), "std": (unit, unit, unit), "mean_image": True}
        return preprocessing.model_copy(update=update), found.mean_image, found.palette
    return preprocessing, mean_image, found.palette


def _plain_palette(preprocessing: Preprocessing) -> Palette:
    return Palette(255 * np.array(preprocessing.mean), np.zeros((3, 3)))
