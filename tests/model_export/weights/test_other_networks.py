"""Networks that this project does not have are named, and no option is suggested for them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from model_export.errors import InputError
from model_export.weights.loading import load_file
from model_export.weights.other_networks import refuse_other_networks
from model_export.weights.reading import read_weights
from tests.model_export.weights.weight_files import imagenet_file, meta_resnet


def zeros(*shape: int) -> Tensor:
    return torch.zeros(()).expand(shape)


def resnet50(**changes: Tensor | None) -> dict[str, Tensor]:
    """The state dict of ResNet-50, with further tensors, or without those that are None. `__` stands for a dot."""
    state: dict[str, Tensor | None] = dict(meta_resnet(50).state_dict())
    state |= {name.replace("__", "."): tensor for name, tensor in changes.items()}
    return {name: zeros(*tensor.shape) for name, tensor in state.items() if tensor is not None}


DEEP_STEM = {"conv1__weight": None, "conv1__0__weight": zeros(32, 3, 3, 3), "conv1__3__weight": zeros(32, 32, 3, 3)}
POOLED = {
    "layer1__0__downsample__0__weight": None,
    "layer1__0__downsample__1__weight": zeros(256, 64, 1, 1),
    "layer1__0__downsample__2__weight": zeros(256),
}
SE = {"layer1__0__se__fc1__weight": zeros(16, 256, 1, 1)}


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        (DEEP_STEM, "ResNet-C (its stem begins with conv1.0.weight)"),
        (POOLED, "ResNet-D (pooling comes before layer1.0.downsample.1.weight)"),
        (DEEP_STEM | POOLED, "ResNet-D (its stem begins with conv1.0.weight, pooling comes before layer1.0.downsample"),
        (SE, "SE-ResNet (it has layer1.0.se.fc1.weight)"),
        ({"layer1__0__se_module__fc1__weight": zeros(16, 256, 1, 1)}, "SE-ResNet (it has layer1.0.se_module"),
        ({"layer1__0__se__conv__weight": zeros(1, 1, 3)}, "ECA-ResNet (it has layer1.0.se.conv.weight)"),
        ({"layer1__0__se__channel__fc1__weight": zeros(16, 256, 1, 1)}, "CBAM-ResNet"),
        ({"layer1__0__conv2__weight": zeros(128, 4, 3, 3)}, "ResNeXt 32x4d (layer1.0.conv2.weight has 32 groups)"),
        ({"layer1__0__conv2__weight": zeros(128, 128, 3, 3)}, "wide ResNet (layer1.0.conv2.weight has 128 channels"),
        (SE | {"layer1__0__conv2__weight": zeros(256, 8, 3, 3)}, "(it has layer1.0.se.fc1.weight) and ResNeXt 32x8d"),
        ({"layer1__0__bn1__running_mean": None}, "ResNet with group norm"),
        ({"layer1__0__conv2__weight": None, "layer1__0__conv2__fc1__weight": zeros(32, 64, 1, 1)}, "ResNeSt"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("prefix", ["", "backbone."])
def test_relatives_of_resnet(tmp_path: Path, changes: dict[str, Tensor | None], kind: str, prefix: str) -> None:
    path = tmp_path / "net.pth"
    torch.save({"state_dict": {prefix + name: tensor for name, tensor in resnet50(**changes).items()}}, path)
    with pytest.raises(InputError) as caught:
        load_file(path, depth=50, variant="v1.5")
    message = str(caught.value).replace("backbone.", "")
    assert message.startswith(f"{path} holds another kind of network, which is not supported: ")
    assert kind in message
    assert "--" not in message
    assert "No option makes it fit" in message


@pytest.mark.parametrize(
    ("names", "kind"),
    [
        (["cls_token", "patch_embed.proj.weight"], "vision transformer (ViT)"),
        (["vit.embeddings.cls_token"], "vision transformer (ViT)"),
        (["layers.0.blocks.0.attn.relative_position_bias_table", "patch_embed.proj.weight"], "Swin transformer"),
        (["conv_stem.weight", "bn1.weight", "blocks.1.0.conv_dw.weight"], "EfficientNet or MobileNet"),
        (["features.0.0.weight", "features.1.0.block.0.0.weight"], "EfficientNet or MobileNet"),
        (["stages.0.blocks.0.conv_dw.weight"], "ConvNeXt"),
        (["features.denseblock1.denselayer1.conv1.weight"], "DenseNet"),
        (["Conv2d_1a_3x3.conv.weight"], "Inception"),
        (["features.0.weight", "classifier.6.weight"], "VGG, AlexNet or the like"),
        (["layer0.conv1.weight", "layer1.0.conv1.weight", "layer1.0.se_module.fc1.weight"], "SE-ResNet"),
    ],
)
def test_networks_of_other_kinds(tmp_path: Path, names: list[str], kind: str) -> None:
    torch.save({"model": {name: torch.zeros(1) for name in names}, "epoch": 3}, tmp_path / "net.pth")
    with pytest.raises(InputError) as caught:
        read_weights(tmp_path / "net.pth")
    assert f"which is not supported: {kind}" in str(caught.value)


@pytest.mark.parametrize("options", [{}, {"shortcut": "A"}, {"shortcut": "C"}, {"shortcut": None}])
@pytest.mark.parametrize("depth", [18, 50])
def test_our_own_networks_are_none_of_them(depth: int, options: dict[str, str | None]) -> None:
    refuse_other_networks(meta_resnet(depth, **options).state_dict(), Path("net.pth"))


def test_a_wide_net_of_basic_blocks(tmp_path: Path) -> None:
    wide = {"layer1.0.conv1.weight": zeros(128, 64, 3, 3), "layer1.0.conv2.weight": zeros(128, 128, 3, 3)}
    path = imagenet_file(tmp_path / "net.pth", meta_resnet(18, num_classes=3), **wide)
    with pytest.raises(InputError, match=r"wide ResNet \(layer1.0.conv2.weight has 128 channels instead of 64\)"):
        load_file(path, depth=18)


def test_a_depth_that_no_resnet_here_has(tmp_path: Path) -> None:
    state = {name: tensor for name, tensor in meta_resnet(50).state_dict().items() if not name.startswith("layer3.5.")}
    torch.save({name: zeros(*tensor.shape) for name, tensor in state.items()}, tmp_path / "net.pth")
    with pytest.raises(InputError, match="have 3, 4, 5, 3 bottlenecks, as no ResNet here has") as caught:
        load_file(tmp_path / "net.pth", depth=50, variant="v1.5")
    assert "pass" not in str(caught.value)
