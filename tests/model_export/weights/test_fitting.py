"""Files that do not fit the requested network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from model_export.errors import InputError
from tests.model_export.weights.weight_files import State, assert_same, imagenet_file, load, meta_resnet, refusal


def test_batch_norm_counters_may_be_missing(folder: Path, state: State) -> None:
    torch.save({name: t for name, t in state.items() if "num_batches_tracked" not in name}, folder / "net.pth")
    expected = {name: torch.tensor(0) if "num_batches_tracked" in name else t for name, t in state.items()}
    assert_same(load(folder / "net.pth"), expected)


@pytest.mark.parametrize(
    ("in_file", "requested", "parts"),
    [
        (
            {"depth": 101},
            {"depth": 50},
            ("looks like depth 101", "3, 4, 23, 3 bottlenecks", "pass `--depth 101`", "306 unexpected: layer3.6."),
        ),
        (
            {"depth": 18},
            {"depth": 50},
            ("looks like depth 18", "2, 2, 2, 2 basic blocks", "`--depth 18`", "missing: layer1.0.downsample.0.weight"),
        ),
        ({"depth": 18}, {"depth": 50}, ("shape: layer1.0.conv1.weight (64, 64, 3, 3) instead of (64, 64, 1, 1), ",)),
        ({"depth": 50}, {"depth": 34}, ("looks like depth 50", "`--depth 50`")),
        ({"depth": 18, "shortcut": "C"}, {"depth": 18}, ("pass `--shortcut C`", "unexpected: layer1.0.downsample.0")),
        ({"depth": 18, "shortcut": "A"}, {"depth": 18}, ("pass `--shortcut A`", "missing: layer2.0.downsample.0")),
        ({"depth": 18}, {"depth": 34, "shortcut": "none"}, ("pass `--depth 18` `--shortcut B`",)),
        ({"depth": 18, "shortcut": None}, {"depth": 34, "shortcut": "none"}, ("shortcut none", "pass `--depth 18`;")),
        ({"depth": 18}, {"depth": 20, "family": "cifar", "shortcut": "A"}, ("`--family imagenet` `--depth 18`",)),
    ],
)  # fmt: skip
def test_another_architecture(
    folder: Path, in_file: dict[str, Any], requested: dict[str, Any], parts: tuple[str, ...]
) -> None:
    path = imagenet_file(folder / "net.pth", meta_resnet(num_classes=3, **in_file))
    message = refusal(path, **{"family": "imagenet", "shortcut": "B", "variant": "v1.5", **requested})
    for part in parts:
        assert part in message


def test_a_cifar_net_requested_as_another(folder: Path, state: State) -> None:
    torch.save(state, folder / "net.pth")
    assert "pass `--depth 8`" in refusal(folder / "net.pth", depth=20)
    message = refusal(folder / "net.pth", depth=18, family="imagenet", shortcut="B")
    assert "pass `--family cifar` `--depth 8` `--shortcut A`" in message


def test_at_most_five_names_of_a_kind(folder: Path) -> None:
    path = imagenet_file(folder / "net.pth", meta_resnet(34, num_classes=3))
    message = refusal(path, family="imagenet", shortcut="B", depth=18)
    kinds = message.partition("`--depth 34`; ")[2]
    assert kinds == (
        "96 unexpected: layer1.2.conv1.weight, layer1.2.bn1.weight, layer1.2.bn1.bias, layer1.2.bn1.running_mean, "
        "layer1.2.bn1.running_var, ..."
    )


def test_an_imagenet_net_adapted_to_cifar(folder: Path) -> None:
    net = meta_resnet(18, num_classes=3).state_dict()
    net["conv1.weight"] = torch.zeros(64, 3, 3, 3)
    kuangliu = {
        name.replace("downsample", "shortcut").replace("fc.", "linear."): torch.zeros(()).expand(tensor.shape)
        for name, tensor in net.items()
    }
    torch.save(kuangliu, folder / "net.pth")
    message = refusal(folder / "net.pth", family="imagenet", shortcut=None, depth=18)
    assert "does not fit resnet18: its first convolution is 3x3, as in ImageNet nets adapted to CIFAR" in message
    assert message.endswith("1 of another shape: conv1.weight (64, 3, 3, 3) instead of (64, 3, 7, 7)")


def test_a_shape_of_no_known_net(folder: Path) -> None:
    path = imagenet_file(
        folder / "net.pth", meta_resnet(18, num_classes=3), **{"conv1.weight": torch.zeros(64, 1, 7, 7)}
    )
    message = refusal(path, family="imagenet", shortcut="B", depth=18)
    assert message.endswith("resnet18: 1 of another shape: conv1.weight (64, 1, 7, 7) instead of (64, 3, 7, 7)")


def test_a_depth_that_does_not_exist(folder: Path, state: State) -> None:
    torch.save(state, folder / "net.pth")
    with pytest.raises(InputError, match="depth 6n\\+2"):
        load(folder / "net.pth", depth=9)


def test_a_network_with_similar_names_is_not_guessed(folder: Path) -> None:
    names = ("conv1.weight", "bn1.weight", "layer1.0.mlp.weight")
    torch.save({"fc.weight": torch.zeros(3, 64)} | {name: torch.zeros(1) for name in names}, folder / "net.pth")
    message = refusal(folder / "net.pth")
    assert "does not fit resnet8-cifar: " in message
    assert "looks like" not in message
