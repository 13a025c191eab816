"""Recognises networks that this project does not have, by the names and shapes of their weights."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from torch import Tensor

from model_export.errors import InputError

# Parameters that only one relative of ResNet has, in the files of torchvision, timm and others.
RELATIVES = (
    (r"layer\d+\.\d+\.(se|cbam)\.(channel|ChannelGate)\.\S+", "CBAM-ResNet"),
    (r"layer\d+\.\d+\.(se|eca)\.conv\.weight", "ECA-ResNet"),
    (r"layer\d+\.\d+\.(se|se_module|se_layer)\.(fc|conv)\S+", "SE-ResNet"),
    (r"layer\d+\.\d+\.conv\d\.paths\.\S+", "SK-ResNet"),
    (r"layer\d+\.\d+\.conv2\.fc1\.weight", "ResNeSt"),
    (r"layer\d+\.\d+\.convs\.0\.weight", "Res2Net"),
    (r"stage2\.\d+\.branches\.\S+", "HRNet"),
)

# The same for networks without layer1, layer2 and so on. The first that matches counts.
STRANGERS = (
    (r"\S*relative_position_bias_table", "Swin transformer or the like"),
    (r"(\S+\.)?(cls_token|class_token|conv_proj\.weight|patch_embed\S*\.weight)", "vision transformer (ViT)"),
    (r"\S*(conv_dw\.weight|layer_scale\w*|dwconv\.weight)", "ConvNeXt"),
    (r"\S*denseblock1\.denselayer1\.\S+", "DenseNet"),
    (r"(\S+\.)?(trunk_output\.\S+|s1\.b1\.conv1\.conv\.weight)", "RegNet"),
    (r"(\S+\.)?Conv2d_1a_3x3\.\S+", "Inception"),
    (r"(\S+\.)?stages\.0\.blocks\.0\.norm1\.weight", "ResNet v2 (pre-activation)"),
    (r"(\S+\.)?features\.0\.weight", "VGG, AlexNet or the like"),
)
MOBILE = (r"(\S+\.)?(conv_stem\.weight|features\.1(\.0)?\.(block|conv)\.0\.0\.weight)", "EfficientNet or MobileNet")

CONVOLUTION = 4  # dimensions of its weights; those of a batch norm have one


def refuse_other_networks(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Raises InputError if the weights are those of a network that this project does not have; it names the kind.

    Args:
        tensors: by parameter name, with or without a prefix.
        path: for the message.
    """
    if found := dict(_kinds(tensors)):
        kinds = " and ".join(f"{kind} ({trait})" for kind, trait in found.items())
        raise InputError(
            f"{path} holds another kind of network, which is not supported: {kinds}. No option makes it fit: pass "
            "weights of a ResNet of the paper (depth 18, 34, 50, 101 or 152, or a CIFAR net)"
        )


def _kinds(tensors: Mapping[str, Tensor]) -> Iterator[tuple[str, str]]:
    """Every other kind of network that the weights have traits of, and the trait."""
    if _find(r"(\S+\.)?layer1\.0\.\S+", tensors) is None:
        for pattern, kind in (MOBILE, *STRANGERS):
            if name := _find(pattern, tensors):
                yield kind, f"it has {name}"
                return
        return
    for pattern, kind in RELATIVES:
        if name := _find(rf"(\S+\.)?{pattern}", tensors):
            yield kind, f"it has {name}"
            break
    yield from _stems_and_shortcuts(tensors)
    yield from _widths(tensors)
    name = _find(r"(\S+\.)?layer1\.0\.bn1\.weight", tensors)
    if name and name.replace("weight", "running_mean") not in tensors:
        yield "ResNet with group norm", f"{name} has no running_mean"


def _stems_and_shortcuts(tensors: Mapping[str, Tensor]) -> Iterator[tuple[str, str]]:
    """ResNet-C and -D (He et al. 2018, figure 2): three 3x3 convolutions first; pooling before projections."""
    stem = _find(r"(\S+\.)?(conv1|stem)\.0\.weight", tensors, CONVOLUTION)
    pooled = _find(r"(\S+\.)?layer\d+\.\d+\.downsample\.1\.weight", tensors, CONVOLUTION)
    if stem or pooled:
        traits = [f"its stem begins with {stem}"] * bool(stem) + [f"pooling comes before {pooled}"] * bool(pooled)
        yield "ResNet-D" if pooled else "ResNet-C", ", ".join(traits)


def _widths(tensors: Mapping[str, Tensor]) -> Iterator[tuple[str, str]]:
    """ResNeXt (groups in the 3x3 convolutions) and wide ResNets (more channels in them)."""
    second = _find(r"(\S+\.)?layer1\.0\.conv2\.weight", tensors, CONVOLUTION)
    if second is None:
        return
    channels, per_group = tensors[second].shape[:2]
    first, third = (tensors.get(second.replace("conv2", conv)) for conv in ("conv1", "conv3"))
    if per_group and channels > per_group:
        groups = channels // per_group
        yield f"ResNeXt {groups}x{per_group}d", f"{second} has {groups} groups"
        return
    if third is not None:  # a bottleneck
        usual = third.shape[0] // 4
    else:
        usual = first.shape[1] if first is not None and first.ndim == CONVOLUTION else channels
    if channels > usual:
        yield "wide ResNet", f"{second} has {channels} channels instead of {usual}"


def _find(pattern: str, tensors: Mapping[str, Tensor], dimensions: int | None = None) -> str | None:
    """The first parameter that matches, and has so many dimensions."""
    matches = (name for name in tensors if re.fullmatch(pattern, name))
    return next((name for name in matches if dimensions in (None, tensors[name].ndim)), None)
