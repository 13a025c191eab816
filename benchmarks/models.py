"""The model of the benchmarks: a ResNet-50 of random weights, which cost as much as trained ones."""

from __future__ import annotations

from pathlib import Path

from model_export.publish import publish
from model_export.quantise.images import open_parts
from model_export.quantise.quantising import quantise
from model_export.random_weights import random_weights
from service.card import Architecture, ModelCard, published

CACHE = Path(".cache/benchmark-models")
NAME = "resnet50"
TINY = "resnet8-cifar"


def resnet50() -> Path:
    """The model folder that holds it, published on first use with an int8 file.

    Random weights leave classes so close to each other that int8 often changes the best one: any loss is allowed.
    """
    root = CACHE.resolve()
    if not any(entry.name == NAME for entry in published(root)):
        publish(random_weights(Architecture(depth=50)), root, NAME)
    if "int8" not in ModelCard.read(latest(root)).files:
        entry = [entry for entry in published(root) if entry.name == NAME][-1]
        quantise(entry, root, open_parts("drawings:train=64,val=64"), limit=1.0)
    return root


def tiny() -> Path:
    """The model folder that holds a ResNet-8 for 32x32 pixels: next to nothing to compute, so all the rest shows."""
    root = CACHE.resolve()
    if not any(entry.name == TINY for entry in published(root)):
        publish(random_weights(Architecture(depth=8, family="cifar", shortcut="A", num_classes=10)), root, TINY)
    return root


def latest(root: Path) -> Path:
    """The folder of its latest version."""
    return [entry.path for entry in published(root) if entry.name == NAME][-1]
