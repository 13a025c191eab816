"""Published networks for 32x32 images, and drawings for them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from model_export.datasets.base import Data
from model_export.datasets.by_name import open_data
from model_export.drawings.pictures import CLASSES
from model_export.export.publish import publish
from model_export.weights.loading import Loaded
from model_export.weights.random_weights import random_weights
from service.runtime.model_card import Architecture, Label
from service.runtime.model_folder import ModelVersion, model_versions
from tests.support.folders import copied, shared_folder

CIFAR = Architecture(depth=8, family="cifar", shortcut="A", num_classes=len(CLASSES))


@pytest.fixture(scope="session")
def net() -> Loaded:
    """Random weights, with the classes of the drawings."""
    return random_weights(CIFAR)._replace(labels=tuple(Label(name=name) for name in CLASSES))


@pytest.fixture(scope="session")
def model_folder(net: Loaded, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A model folder with `net`, and with `outlier`, which has a layer that int8 ruins. Read-only."""

    def publish_both(root: Path) -> None:
        publish(net, root, "net")
        outlier = random_weights(CIFAR)._replace(labels=net.labels)
        block = outlier.net.get_submodule("layer2.0")
        with torch.no_grad():
            # This channel is always 0 and its large weights never matter, but they set the scale of all the others.
            block.bn1.bias[0] = -100
            block.conv2.weight[:, 0] = 100
        publish(outlier, root, "outlier")

    with shared_folder(tmp_path_factory, "to-quantise", publish_both) as root:
        yield root


@pytest.fixture
def root(model_folder: Path, tmp_path: Path) -> Path:
    """A copy of the model folder, to write to."""
    return copied(model_folder, tmp_path / "models")


@pytest.fixture
def net_version(root: Path) -> ModelVersion:
    return next(model_versions(root))


@pytest.fixture(scope="session")
def data() -> Data:
    return open_data("drawings:train=160,val=120,side=32")
