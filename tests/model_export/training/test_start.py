"""First weights, new heads, and the normalisation that goes into the model card."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from model_export.datasets.base import Data
from model_export.datasets.in_memory import InMemory
from model_export.errors import InputError
from model_export.nets.resnet import build
from model_export.training.recipe import override
from model_export.training.recipes import RECIPES
from model_export.training.start import begin, fit_sizes, labels_of
from model_export.weights.defaults import CIFAR_PREPROCESSING
from model_export.weights.random_weights import random_weights
from service.runtime.model_card import Architecture, Label

from .conftest import CIFAR8, SHORT, assert_same_weights

FINETUNE = override(RECIPES["finetune"], {"size": 32, "test_size": 32, "test_resize": 32})


def test_the_seed_decides_the_first_weights(data: Data) -> None:
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    first = begin(CIFAR8, SHORT, data.train, seed=3)
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(2)
    assert_same_weights(first.net, begin(CIFAR8, SHORT, data.train, seed=3).net)
    assert not torch.equal(first.net.fc.weight, begin(CIFAR8, SHORT, data.train, seed=4).net.fc.weight)


def test_the_papers_normalisation_subtracts_a_mean_per_pixel(data: Data) -> None:
    start = begin(CIFAR8, SHORT, data.train)
    assert isinstance(data.train, InMemory)
    expected = data.train.images.double().mean(0).permute(2, 0, 1)
    assert start.mean_image is not None
    torch.testing.assert_close(start.mean_image.double(), expected, atol=1e-4, rtol=0)
    p = start.preprocessing
    assert (p.resize, p.crop, p.mean_image) == (32, 32, True)
    assert 255 * np.array(p.mean) == pytest.approx(expected.mean((1, 2)).numpy())
    assert np.array(p.std) * 255 == pytest.approx([1, 1, 1])


def test_other_classes_get_a_new_head(data: Data) -> None:
    loaded = random_weights(Architecture(depth=8, family="cifar", shortcut="A", num_classes=10))
    start = begin(CIFAR8, FINETUNE, data.train, loaded=loaded)
    for name, tensor in start.net.state_dict().items():
        if name.startswith("fc."):
            assert tensor.shape[0] == 3
        else:
            assert torch.equal(tensor, loaded.net.state_dict()[name]), name
    assert start.preprocessing == CIFAR_PREPROCESSING
    assert [label.name for label in start.labels] == ["circle", "cross", "stripes"]


def test_the_same_classes_keep_the_head(data: Data) -> None:
    loaded = random_weights(CIFAR8)._replace(labels=tuple(Label(name=name) for name in data.train.classes))
    assert_same_weights(begin(CIFAR8, FINETUNE, data.train, loaded=loaded).net, loaded.net)


def test_finetune_needs_weights(data: Data) -> None:
    with pytest.raises(InputError, match=r"recipe finetune starts from trained weights: give --weights"):
        begin(CIFAR8, FINETUNE, data.train)


def test_sizes_follow_the_weights_unless_they_are_given() -> None:
    loaded = random_weights(CIFAR8)
    recipe = fit_sizes(RECIPES["finetune"], loaded, set())
    assert (recipe.size, recipe.test_size, recipe.test_resize) == (32, 32, 32)
    kept = override(RECIPES["finetune"], {"size": 224})
    assert fit_sizes(kept, loaded, {"size", "test_size", "test_resize"}).size == 224


def test_a_mean_image_does_not_fit_other_sizes(data: Data) -> None:
    loaded = random_weights(CIFAR8)._replace(mean_image=torch.zeros(3, 28, 28))
    with pytest.raises(InputError, match="the mean image of the weights has 28 x 28 pixels"):
        begin(CIFAR8, FINETUNE, data.train, loaded=loaded)


def test_folders_named_by_wordnet_ids_get_imagenets_names() -> None:
    assert labels_of(("n01440764", "n01443537"))[1] == Label(name="goldfish", wnid="n01443537")
    assert labels_of(("n01440764", "cat"))[0] == Label(name="n01440764")


def test_depths_that_the_paper_does_not_have_are_refused(data: Data) -> None:
    with pytest.raises(ValueError, match="6n"):
        begin(CIFAR8.model_copy(update={"depth": 9}), SHORT, data.train)
    assert build(CIFAR8).architecture == CIFAR8
