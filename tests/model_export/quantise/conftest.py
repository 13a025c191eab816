"""Published networks of 32 pixels, and drawings for them."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from model_export.datasets.base import Data
from model_export.datasets.opening import open_data
from model_export.drawings import CLASSES
from model_export.publish import publish
from model_export.random_weights import random_weights
from model_export.weights import Loaded
from service.card import Architecture, Label, Published, published

CIFAR = Architecture(depth=8, family="cifar", shortcut="A", num_classes=len(CLASSES))


@pytest.fixture(scope="session")
def net() -> Loaded:
    """Random weights that call their classes as the drawings do."""
    return random_weights(CIFAR)._replace(labels=tuple(Label(name=name) for name in CLASSES))


@pytest.fixture(scope="session")
def published_once(net: Loaded, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder with `net`, and with `outlier`, one of whose layers cannot be had in int8."""
    root = tmp_path_factory.mktemp("published")
    publish(net, root, "net")
    outlier = random_weights(CIFAR)._replace(labels=net.labels)
    block = outlier.net.get_submodule("layer2.0")
    with torch.no_grad():
        # A channel that is always 0, and so the weights that read it: they only spoil the scale of all others.
        block.bn1.bias[0] = -100
        block.conv2.weight[:, 0] = 100
    publish(outlier, root, "outlier")
    return root


@pytest.fixture
def root(published_once: Path, tmp_path: Path) -> Path:
    """A copy to write into."""
    return shutil.copytree(published_once, tmp_path / "models")


@pytest.fixture
def net_1(root: Path) -> Published:
    return next(published(root))


@pytest.fixture(scope="session")
def data() -> Data:
    return open_data("drawings:train=160,val=120,side=32")
