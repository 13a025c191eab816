from __future__ import annotations

import pytest

from model_export.evaluation.reported import StandardDataset, recognise_dataset, reported_errors
from model_export.evaluation.result import Method
from model_export.weights.labels import imagenet_labels
from service.runtime.model_card import Architecture

CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def net(depth: int, **fields: object) -> Architecture:
    return Architecture.model_validate({"depth": depth, **fields})


def cifar(depth: int, shortcut: str | None = "A") -> Architecture:
    return net(depth, family="cifar", shortcut=shortcut, num_classes=10)


@pytest.mark.parametrize(
    ("architecture", "method", "dataset", "expected"),
    [
        (net(18, shortcut=None), "10-crop", "imagenet", (27.94, None)),
        (net(18, shortcut="A"), "10-crop", "imagenet", (27.88, None)),
        (net(34, shortcut=None), "10-crop", "imagenet", (28.54, 10.02)),
        (net(34, shortcut="C"), "10-crop", "imagenet", (24.19, 7.40)),
        (net(152, variant="v1"), "10-crop", "imagenet", (21.43, 5.71)),
        (net(34), "multi-scale", "imagenet", (21.84, 5.71)),
        (net(101, variant="v1"), "multi-scale", "imagenet", (19.87, 4.60)),
        (net(50, variant="v1"), "1-crop", "imagenet", (24.7, 7.8)),
        (net(50), "1-crop", "imagenet", (23.870, 7.138)),
        (net(18), "1-crop", "imagenet", (30.242, 10.922)),
        (net(18, variant="v1"), "1-crop", "imagenet", (30.242, 10.922)),  # no bottleneck: the same net
        (cifar(56), "1-crop", "cifar10", (6.97, None)),
        (cifar(1202), "1-crop", "cifar10", (7.93, None)),
    ],
)
def test_reported_errors(
    architecture: Architecture, method: Method, dataset: StandardDataset, expected: tuple[float, float | None]
) -> None:
    errors = reported_errors(architecture, method, dataset)
    assert errors is not None
    assert errors[:2] == expected
    assert errors.source


@pytest.mark.parametrize(
    ("architecture", "method", "dataset"),
    [
        (net(50), "10-crop", "imagenet"),  # the paper's is v1
        (net(18), "10-crop", "imagenet"),  # the paper's has option A
        (net(50, shortcut="C", variant="v1"), "1-crop", "imagenet"),
        (net(18, shortcut="A"), "1-crop", "imagenet"),
        (net(50), "1-crop", "cifar10"),
        (net(50), "1-crop", None),
        (cifar(20), "10-crop", "cifar10"),
        (cifar(20, None), "1-crop", "cifar10"),
        (cifar(26), "1-crop", "cifar10"),
        (cifar(20), "1-crop", "imagenet"),
    ],
)
def test_nothing_is_reported_for_other_nets_methods_or_data(
    architecture: Architecture, method: Method, dataset: StandardDataset | None
) -> None:
    assert reported_errors(architecture, method, dataset) is None


def test_standard_datasets_are_recognised() -> None:
    labels = imagenet_labels()
    assert recognise_dataset([label.name for label in labels]) == "imagenet"
    assert recognise_dataset(sorted(label.wnid or "" for label in labels)) == "imagenet"
    assert recognise_dataset([label.wnid or "" for label in labels[:-1]]) is None
    assert recognise_dataset(CIFAR10) == "cifar10"
    assert recognise_dataset(CIFAR10[::-1]) == "cifar10"
    assert recognise_dataset(["cat", "dog"]) is None
