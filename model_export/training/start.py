"""The start of a run: its network, with new or trained weights, and the normalisation of images."""

from __future__ import annotations

import logging
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from model_export.datasets.base import Dataset
from model_export.errors import InputError
from model_export.nets.resnet import ResNet, build
from model_export.training import checkpoint
from model_export.training.augment import Palette
from model_export.training.colour_statistics import measure_colours
from model_export.training.recipe import Recipe, override
from model_export.weights.defaults import usual_preprocessing
from model_export.weights.labels import imagenet_labels
from model_export.weights.loading import Loaded
from model_export.weights.record import MEAN_IMAGE, Record
from service.runtime.head import Head
from service.runtime.model_card import Architecture, Label, Weights
from service.runtime.preprocessing import Preprocessing

log = logging.getLogger(__name__)


class Start(NamedTuple):
    """What a run starts from, besides its recipe and its data."""

    net: ResNet
    labels: tuple[Label, ...]
    preprocessing: Preprocessing  # of testing and serving
    mean_image: Tensor | None  # float32 (3, height, width), 0 to 255
    palette: Palette
    weights: Weights | None = None  # trained ones that it starts from
    head: Head = Head()

    @property
    def record(self) -> Record:
        return Record(
            architecture=self.net.architecture, preprocessing=self.preprocessing, labels=self.labels, head=self.head
        )

    def content(self) -> checkpoint.Content:
        """What `resume` needs, except the weights."""
        return {
            **self.record.model_dump(mode="json"),
            MEAN_IMAGE: self.mean_image,
            "palette": [values.tolist() for values in self.palette],
            "started_from": self.weights.model_dump(mode="json") if self.weights else None,
        }


def begin(
    architecture: Architecture, recipe: Recipe, train: Dataset, *, loaded: Loaded | None = None, seed: int = 0
) -> Start:
    """The start of a new run: a network with He-initialised weights drawn by the seed, or with trained ones.

    Args:
        architecture: with the number of classes of `train`.
        loaded: trained weights of the same architecture; if their classes differ, the last layer is new.

    Raises:
        InputError: the recipe normalises as its weights do and there are none, or an image is broken.
        ValueError: the paper has no such network.
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

    head = Head(kind="sigmoid" if train.multi_label else "softmax")
    head.check(len(labels))
    preprocessing, mean_image, palette = _normalisation(architecture, recipe, train, loaded)
    return Start(net, labels, preprocessing, mean_image, palette, loaded.weights if loaded else None, head)


def resume(content: checkpoint.Content) -> Start:
    """The start of a resumed run, from its checkpoint; the trainer restores the weights."""
    record = Record.model_validate({name: content[name] for name in Record.model_fields})
    assert record.architecture is not None  # `train` writes all three
    assert record.preprocessing is not None
    assert record.labels is not None
    palette = Palette(*(np.array(values) for values in content["palette"]))
    weights = Weights.model_validate(content["started_from"]) if content["started_from"] else None
    return Start(
        build(record.architecture),
        record.labels,
        record.preprocessing,
        content[MEAN_IMAGE],
        palette,
        weights,
        record.head,
    )


def fit_sizes(recipe: Recipe, loaded: Loaded, given: set[str]) -> Recipe:
    """The recipe at the image sizes of the weights, except for fields that the user has given."""
    p = loaded.preprocessing
    sizes = {
        "size": p.height,
        "test_size": p.height,
        "test_resize": p.resize,
        "width": None if p.width == p.height else p.width,
        "interpolation": p.interpolation,
        "fit": p.fit,
        "fill": p.fill,
        "channels": p.channels,
        "window": p.window,
    }
    return override(recipe, {name: value for name, value in sizes.items() if name not in given})


def labels_of(classes: tuple[str, ...]) -> tuple[Label, ...]:
    """Labels for the classes of a data set. Classes named by ImageNet's WordNet ids get ImageNet's names."""
    known = {label.wnid: label for label in imagenet_labels()}
    if all(name in known for name in classes):
        return tuple(known[name] for name in classes)
    return tuple(Label(name=name) for name in classes)


def check_network(architecture: Architecture, recipe: Recipe) -> None:
    """Raises ValueError if there is no such network, or it lacks the stage that the recipe freezes."""
    with torch.device("meta"):
        net = build(architecture)
    if recipe.freeze:
        net.modules_up_to(recipe.freeze)


def check_weights(recipe: Recipe, loaded: Loaded | None) -> None:
    """Raises InputError if a recipe starts from trained weights and there are none."""
    if recipe.normalisation == "weights" and loaded is None:
        raise InputError(
            f"recipe {recipe.name} starts from trained weights: give --weights imagenet or a file, or choose another "
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
    preprocessing = recipe.preprocessing(usual)
    if mean_image is not None and mean_image.shape[1:] != preprocessing.shape[1:]:
        raise InputError(
            f"the mean image of the weights has {mean_image.shape[1]} x {mean_image.shape[2]} pixels: leave --size and "
            "--test-size out"
        )
    if recipe.normalisation != "mean-image" and not recipe.pca_colour:
        return preprocessing, mean_image, _plain_palette(preprocessing)
    colours = measure_colours(train, preprocessing)
    if recipe.normalisation == "mean-image":
        r, g, b = (colours.palette.mean / 255).tolist()
        # The paper subtracts the mean and does not divide. (The first batch norm cancels any factor.)
        unit = 1 / 255
        update = {"mean": (r, g, b), "std": (unit, unit, unit), "mean_image": True}
        return preprocessing.model_copy(update=update), colours.mean_image, colours.palette
    return preprocessing, mean_image, colours.palette


def _plain_palette(preprocessing: Preprocessing) -> Palette:
    return Palette(255 * np.array(preprocessing.mean), np.zeros((3, 3)))
