"""Weights as timm and torchvision read them."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from model_export.errors import InputError
from model_export.weights.converting import (
    check_convertible,
    crop_share,
    write_for_timm,
    write_for_torchvision,
)
from model_export.weights.labels import imagenet_labels
from model_export.weights.loading import Loaded, load_file
from model_export.weights.random_weights import random_weights
from service.runtime.head import Head
from service.runtime.model_card import Architecture, Label, Weights
from service.runtime.preprocessing import Preprocessing
from tests.model_export.weights.weight_files import assert_same, meta_resnet

PREPROCESSING = Preprocessing(resize=232, interpolation="bicubic", mean=(0.4, 0.5, 0.6), std=(0.2, 0.25, 0.3))
LABELS = tuple(Label(name=name) for name in ("red", "grün", "blue"))


@pytest.fixture(scope="module")
def loaded() -> Loaded:
    """ResNet-18 with three classes."""
    net = random_weights(Architecture(depth=18, num_classes=3))
    weights = Weights(source="net.pth", license="MIT")
    return net._replace(labels=LABELS, preprocessing=PREPROCESSING, weights=weights)


def logits(net: torch.nn.Module) -> torch.Tensor:
    with torch.inference_mode():
        return net(torch.rand(2, 3, 224, 224, generator=torch.Generator().manual_seed(0)))


def test_timm_reads_the_same_network_back(tmp_path: Path, loaded: Loaded) -> None:
    write_for_timm(loaded, tmp_path)
    again = load_file(tmp_path / "model.safetensors")
    assert_same(again, loaded.net.state_dict())
    assert again.net.architecture == loaded.net.architecture
    assert (again.labels, again.preprocessing, again.weights.license) == (LABELS, PREPROCESSING, "MIT")
    torch.testing.assert_close(logits(again.net), logits(loaded.net), rtol=0, atol=0)


def test_wordnet_ids_survive_timm(tmp_path: Path, loaded: Loaded) -> None:
    fish = imagenet_labels()[:3]
    write_for_timm(loaded._replace(labels=fish), tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["label_names"][0] == "n01440764"
    assert load_file(tmp_path / "model.safetensors").labels == fish


def test_torchvision_reads_the_same_network_back(tmp_path: Path, loaded: Loaded) -> None:
    write_for_torchvision(loaded, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["labels.json", "resnet18.pth", "transforms.json"]
    again = load_file(tmp_path / "resnet18.pth", depth=18)
    assert_same(again, loaded.net.state_dict())
    assert again.labels == LABELS
    assert json.loads((tmp_path / "transforms.json").read_text()) == {
        "crop_size": 224,
        "resize_size": 232,
        "mean": [0.4, 0.5, 0.6],
        "std": [0.2, 0.25, 0.3],
        "interpolation": "bicubic",
    }


def test_timm_resizes_to_the_same_side() -> None:
    for crop in (32, 160, 224, 288):
        for resize in range(crop, 3 * crop):
            share = crop_share(Preprocessing(resize=resize, crop=crop))
            assert math.floor(crop / share) == resize
            assert 0 < share <= 1


@pytest.mark.parametrize(
    ("architecture", "changes", "fault"),
    [
        (Architecture(depth=8, family="cifar", shortcut="A", num_classes=3), {}, "it holds a CIFAR net"),
        (Architecture(depth=18, shortcut=None, num_classes=3), {}, "it holds a plain net"),
        (Architecture(depth=18, shortcut="A", num_classes=3), {}, "it holds a network with shortcut A"),
        (Architecture(depth=18, shortcut="C", num_classes=3), {}, "it holds a network with shortcut C"),
        (Architecture(depth=50, variant="v1", num_classes=3), {}, "silently give other answers"),
        (Architecture(depth=18, num_classes=3), {"mean_image": True}, "are prepared with mean_image True"),
        (Architecture(depth=18, num_classes=3), {"fit": "squash"}, "are prepared with fit squash"),
        (
            Architecture(depth=18, num_classes=3),
            {"crop": (160, 224)},
            "images of 224 x 160 pixels, and its own are squares",
        ),
    ],
)
def test_what_the_target_does_not_have(architecture: Architecture, changes: dict[str, Any], fault: str) -> None:
    net = meta_resnet(18)
    net.architecture = architecture
    preprocessing = Preprocessing.model_validate(changes)
    held = Loaded(net, Weights(source="net.pth"), LABELS, preprocessing, accuracy=None)
    with pytest.raises(InputError, match=re.escape(fault)) as caught:
        check_convertible(held, "timm")
    assert str(caught.value).startswith("net.pth cannot be converted for timm")


def test_multi_label_weights_are_refused() -> None:
    held = Loaded(meta_resnet(18), Weights(source="net.pth"), LABELS, Preprocessing(), accuracy=None)
    with pytest.raises(InputError, match="a multi-label network, and its files cannot say so"):
        check_convertible(held._replace(head=Head(kind="sigmoid")), "torchvision")


def test_basic_blocks_have_no_variant() -> None:
    net = meta_resnet(18, variant="v1")
    check_convertible(Loaded(net, Weights(source="net.pth"), LABELS, Preprocessing(), accuracy=None), "torchvision")


def test_the_real_timm_reads_it(tmp_path: Path, loaded: Loaded) -> None:
    timm = pytest.importorskip("timm")
    write_for_timm(loaded, tmp_path)
    net = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    torch.testing.assert_close(logits(net), logits(loaded.net), rtol=0, atol=1e-4)
    config = timm.data.resolve_model_data_config(net)
    assert math.floor(224 / config["crop_pct"]) == 232
    assert (config["interpolation"], config["mean"]) == ("bicubic", [0.4, 0.5, 0.6])
    assert net.pretrained_cfg["label_names"] == [label.name for label in LABELS]


@pytest.mark.parametrize("depth", [18, 50])
def test_the_real_torchvision_reads_it(tmp_path: Path, depth: int) -> None:
    torchvision = pytest.importorskip("torchvision")
    held = random_weights(Architecture(depth=depth, num_classes=3))
    write_for_torchvision(held, tmp_path)
    net = torchvision.models.get_model(f"resnet{depth}", num_classes=3).eval()
    net.load_state_dict(torch.load(tmp_path / f"resnet{depth}.pth"))
    torch.testing.assert_close(logits(net), logits(held.net), rtol=0, atol=1e-3)
