"""Reported errors to compare with: of He et al. 2015 and of torchvision's published weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

from model_export.evaluation.result import Method
from model_export.weights.labels import imagenet_labels
from model_export.weights.torchvision_files import IMAGENET_WEIGHTS
from service.runtime.model_card import Architecture, Shortcut

StandardDataset = Literal["imagenet", "cifar10"]

CIFAR10_CLASSES = frozenset(
    ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
)  # fmt: skip


class ErrorRates(NamedTuple):
    """Errors in percent on the validation images of ImageNet, or the test images of CIFAR-10."""

    top1: float
    top5: float | None  # None if not reported
    source: str


_TABLE_2 = "He et al. 2015, table 2"
_TABLE_3 = "He et al. 2015, table 3"
_TABLE_4 = "He et al. 2015, table 4"
_TABLE_6 = "He et al. 2015, table 6"
_AUTHORS = "the authors' released models"
_TORCHVISION = "torchvision, V1 weights"

# By depth and shortcut. Tables 2 and 3 test ten crops; table 2's residual nets have option A (section 4.1).
_TEN_CROPS: dict[tuple[int, Shortcut | None], ErrorRates] = {
    (18, None): ErrorRates(27.94, None, _TABLE_2),
    (18, "A"): ErrorRates(27.88, None, _TABLE_2),
    (34, None): ErrorRates(28.54, 10.02, _TABLE_3),
    (34, "A"): ErrorRates(25.03, 7.76, _TABLE_3),
    (34, "B"): ErrorRates(24.52, 7.46, _TABLE_3),
    (34, "C"): ErrorRates(24.19, 7.40, _TABLE_3),
    (50, "B"): ErrorRates(22.85, 6.71, _TABLE_3),
    (101, "B"): ErrorRates(21.75, 6.05, _TABLE_3),
    (152, "B"): ErrorRates(21.43, 5.71, _TABLE_3),
}
_MULTI_SCALE: dict[tuple[int, Shortcut | None], ErrorRates] = {
    (34, "B"): ErrorRates(21.84, 5.71, _TABLE_4),
    (34, "C"): ErrorRates(21.53, 5.60, _TABLE_4),
    (50, "B"): ErrorRates(20.74, 5.25, _TABLE_4),
    (101, "B"): ErrorRates(19.87, 4.60, _TABLE_4),
    (152, "B"): ErrorRates(19.38, 4.49, _TABLE_4),
}
_ONE_CROP: dict[tuple[int, Shortcut | None], ErrorRates] = {
    (50, "B"): ErrorRates(24.7, 7.8, _AUTHORS),
    (101, "B"): ErrorRates(23.6, 7.1, _AUTHORS),
    (152, "B"): ErrorRates(23.0, 6.7, _AUTHORS),
}
# On the single view of the whole 32x32 image; all with option A. For 110 layers, the best of five runs (mean 6.61).
_CIFAR10: dict[int, ErrorRates] = {
    20: ErrorRates(8.75, None, _TABLE_6),
    32: ErrorRates(7.51, None, _TABLE_6),
    44: ErrorRates(7.17, None, _TABLE_6),
    56: ErrorRates(6.97, None, _TABLE_6),
    110: ErrorRates(6.43, None, _TABLE_6),
    1202: ErrorRates(7.93, None, _TABLE_6),
}
_PAPER: dict[Method, dict[tuple[int, Shortcut | None], ErrorRates]] = {
    "1-crop": _ONE_CROP,
    "10-crop": _TEN_CROPS,
    "multi-scale": _MULTI_SCALE,
}


def reported_errors(architecture: Architecture, method: Method, dataset: StandardDataset | None) -> ErrorRates | None:
    """The reported errors of the same network, by the same method on the same data set; None if nobody reports them.

    The paper's bottleneck nets are v1, torchvision's are v1.5: their errors are not compared with each other.
    """
    a = architecture
    if a.family == "cifar":
        return _CIFAR10.get(a.depth) if (dataset, method, a.shortcut) == ("cifar10", "1-crop", "A") else None
    if dataset != "imagenet":
        return None
    if a.variant == "v1" or not a.has_bottlenecks:
        errors = _PAPER[method].get((a.depth, a.shortcut))
        if errors or a.has_bottlenecks:
            return errors
    weights = IMAGENET_WEIGHTS.get((a.depth, "v1"))
    if weights is None or (method, a.shortcut) != ("1-crop", "B"):
        return None
    return ErrorRates(round(100 * (1 - weights.top1), 3), round(100 * (1 - weights.top5), 3), _TORCHVISION)


def recognise_dataset(classes: Sequence[str]) -> StandardDataset | None:
    """The standard data set with these classes, ImageNet's named in words or by WordNet id; None if it is another."""
    names = frozenset(classes)
    if names == CIFAR10_CLASSES:
        return "cifar10"
    labels = imagenet_labels()
    if names in (frozenset(label.name for label in labels), frozenset(label.wnid or "" for label in labels)):
        return "imagenet"
    return None
