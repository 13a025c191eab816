"""The models of the benchmarks: networks of random weights, which cost as much as trained ones, and a trained one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from model_export.versions import find_version
from service.runtime.choices import FilePrecision
from service.runtime.model_card import Architecture
from service.runtime.model_folder import model_versions, read_card

if TYPE_CHECKING:
    from model_export.weights.loading import Loaded

CACHE = Path(".cache/benchmark-models")
RESNET50 = Architecture(depth=50)
RESNET8 = Architecture(depth=8, family="cifar", shortcut="A", num_classes=10)  # 32x32 pixels: all but free to compute

# Images to calibrate on, and to be judged by.
IMAGES = {"int8": "drawings:train=64,val=64", "fp16": "drawings:train=1,val=8"}


def published(architecture: Architecture, precision: FilePrecision = "fp32") -> Path:
    """The folder of a version (`<name>/<version>`), which has a file in this precision; made on first use.

    Random weights leave classes so close to each other that lower precision often changes the best one. So any loss is
    allowed.
    """

    def random() -> Loaded:
        from model_export.weights.random_weights import random_weights

        return random_weights(architecture)

    return _published(architecture.name, random, precision)


def demo(precision: FilePrecision = "fp32") -> Path:
    """As `published`, the trained ResNet-18 that ships with the project: it tells drawings apart."""

    def shipped() -> Loaded:
        from model_export.demo import shipped_demo

        return shipped_demo()

    return _published("resnet18-demo", shipped, precision)


def _published(name: str, load: Callable[[], Loaded], precision: FilePrecision) -> Path:
    root = CACHE.resolve()
    # Imported here because they bring PyTorch: processes that only decode need not wait for it.
    if not any(entry.name == name for entry in model_versions(root)):
        from model_export.export.publish import publish

        publish(load(), root, name)
    found = find_version(root, name)
    if precision not in read_card(found.path).files:
        from model_export.quantise.images import open_calibration_data
        from model_export.quantise.publication import publish_quantised

        publish_quantised(found, open_calibration_data(IMAGES[precision]), precisions=[precision], limit=1.0)
    return find_version(root, name).path
