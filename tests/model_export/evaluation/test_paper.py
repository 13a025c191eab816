from __future__ import annotations

import pytest

from model_export.evaluation.paper import Kind, kind_of, published
from model_export.evaluation.result import Method
from model_export.labels import imagenet_labels
from service.card import Architecture

CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def net(depth: int, **fields: object) -> Architecture:
    return Architecture.model_validate({"depth": depth, **fields})


def cifar(depth: int, shortcut: str | None = "A") -> Architecture:
    return net(depth, family="cifar", shortcut=shortcut, num_classes=10)


@pytest.mark.parametrize(
    ("architecture", "method", "kind", "expected"),
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
def test_figures(architecture: Architecture, method: Method, kind: Kind, expected: tuple[float, float | None]) -> None:
    figure = published(architecture, method, kind)
    assert figure is not None
    assert figure[:2] == expected
    assert figure.source


@pytest.mark.parametrize(
    ("architecture", "method", "kind"),
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
def test_no_figure_where_none_compares(architecture: Architecture, method: Method, kind: Kind | None) -> None:
    assert published(architecture, method, kind) is None


def test_kinds() -> None:
    labels = imagenet_labels()
    assert kind_of([label.name for label in labels]) == "imagenet"
    assert kind_of(sorted(label.wnid or "" for label in labels)) == "imagenet"
    assert kind_of([label.wnid or "" for label in labels[:-1]]) is None
    assert kind_of(CIFAR10) == "cifar10"
    assert kind_of(CIFAR10[::-1]) == "cifar10"
    assert kind_of(["cat", "dog"]) is None
