"""Residual networks, as in "Deep Residual Learning for Image Recognition" (He et al., 2015).

Two families, both made of the same blocks:

- the ImageNet nets of table 1 (depths 18, 34, 50, 101, 152), `resnet(depth)`;
- the CIFAR nets of section 4.2 (any depth 6n+2), `cifar_resnet(depth)`.

`shortcut=None` builds the plain counterpart: the same layers without shortcuts.
Parameter names are torchvision's (`conv1`, `bn1`, `layer1.0.conv1`, `layer2.0.downsample.0`, `fc`), so
state dicts fit both.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from service.runtime.model_card import Architecture, Shortcut, Variant

IMAGENET_BLOCKS: dict[int, tuple[int, int, int, int]] = {
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
}


# The parts of a network before its last layer, named as in table 1 of the paper; CIFAR nets end with conv4.
Stage = Literal["stem", "conv2", "conv3", "conv4", "conv5"]
STAGES: tuple[Stage, ...] = get_args(Stage)


def build(architecture: Architecture) -> ResNet:
    """The network with He-initialised weights.

    Raises:
        ValueError: the family has no such depth.
    """
    a = architecture
    if a.family == "cifar":
        return cifar_resnet(a.depth, shortcut=a.shortcut, num_classes=a.num_classes)
    return resnet(a.depth, variant=a.variant, shortcut=a.shortcut, num_classes=a.num_classes)


def conv3x3(c_in: int, c_out: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(c_in, c_out, kernel_size=3, stride=stride, padding=1, bias=False)


def conv1x1(c_in: int, c_out: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(c_in, c_out, kernel_size=1, stride=stride, bias=False)


class ZeroPad(nn.Module):
    """Option A: identity, subsampled in space and zero-padded in channels; no parameters."""

    def __init__(self, c_in: int, c_out: int, stride: int) -> None:
        super().__init__()
        self.extra = c_out - c_in
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:  # (N, C_in, H, W) -> (N, C_out, H/stride, W/stride)
        return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.extra))


def make_shortcut(option: Shortcut | None, c_in: int, c_out: int, stride: int) -> nn.Module | None:
    """The shortcut of one block; None is the parameter-free identity (or, in a plain net, no shortcut)."""
    same_shape = stride == 1 and c_in == c_out
    if option is None or (same_shape and option != "C"):
        return None
    if option == "A":
        return ZeroPad(c_in, c_out, stride)
    return nn.Sequential(conv1x1(c_in, c_out, stride), nn.BatchNorm2d(c_out))


class Block(nn.Module):
    """`relu(F(x) + shortcut(x))` (equations 1 and 2); a plain net's block is `relu(F(x))`."""

    expansion = 1  # output channels per base channel

    def __init__(self, c_in: int, c_out: int, stride: int, shortcut: Shortcut | None) -> None:
        super().__init__()
        self.residual = shortcut is not None
        self.relu = nn.ReLU(inplace=True)
        self.downsample = make_shortcut(shortcut, c_in, c_out, stride)

    def stacked_layers(self, x: Tensor) -> Tensor:
        """F(x): the block's layers up to, not including, the last ReLU."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        out = self.stacked_layers(x)
        if self.residual:
            out = out + (x if self.downsample is None else self.downsample(x))
        return self.relu(out)


class BasicBlock(Block):
    """Two 3x3 convolutions (figure 5, left)."""

    def __init__(
        self, c_in: int, width: int, stride: int, shortcut: Shortcut | None, variant: Variant = "v1.5"
    ) -> None:
        super().__init__(c_in, width, stride, shortcut)
        self.conv1 = conv3x3(c_in, width, stride)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = conv3x3(width, width)
        self.bn2 = nn.BatchNorm2d(width)

    def stacked_layers(self, x: Tensor) -> Tensor:
        x = self.relu(self.bn1(self.conv1(x)))
        return self.bn2(self.conv2(x))


class Bottleneck(Block):
    """1x1 that reduces, 3x3, 1x1 that expands by four (figure 5, right)."""

    expansion = 4

    def __init__(
        self, c_in: int, width: int, stride: int, shortcut: Shortcut | None, variant: Variant = "v1.5"
    ) -> None:
        super().__init__(c_in, width * self.expansion, stride, shortcut)
        stride_1x1, stride_3x3 = (stride, 1) if variant == "v1" else (1, stride)
        self.conv1 = conv1x1(c_in, width, stride_1x1)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = conv3x3(width, width, stride_3x3)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = conv1x1(width, width * self.expansion)
        self.bn3 = nn.BatchNorm2d(width * self.expansion)

    def stacked_layers(self, x: Tensor) -> Tensor:
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.relu(self.bn2(self.conv2(x)))
        return self.bn3(self.conv3(x))


class ResNet(nn.Module):
    """Stem, stages of blocks, global average pooling, one linear layer.

    Takes normalised float images `(N, 3, H, W)`, of any H and W, and returns logits `(N, num_classes)`.
    """

    def __init__(
        self,
        architecture: Architecture,
        *,
        block: type[BasicBlock] | type[Bottleneck],
        blocks: Sequence[int],
        widths: Sequence[int],
        stem: nn.Module,
    ) -> None:
        super().__init__()
        self.architecture = architecture
        self.conv1 = stem
        self.bn1 = nn.BatchNorm2d(widths[0])
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1) if architecture.family == "imagenet" else nn.Identity()

        c_in = widths[0]
        self.num_stages = len(blocks)
        for stage, (count, width) in enumerate(zip(blocks, widths, strict=True), start=1):
            layers = []
            for i in range(count):
                stride = 2 if stage > 1 and i == 0 else 1
                layers.append(block(c_in, width, stride, architecture.shortcut, architecture.variant))
                c_in = width * block.expansion
            self.add_module(f"layer{stage}", nn.Sequential(*layers))

        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(c_in, architecture.num_classes)

        for module in self.modules():
            # Tensors on the meta device have no values, yet torch takes long to initialise them.
            if isinstance(module, nn.Conv2d) and not module.weight.is_meta:
                # He initialisation (reference [13] of the paper)
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def modules_up_to(self, stage: Stage) -> list[nn.Module]:
        """The modules of all stages from the stem to this one.

        Raises:
            ValueError: the network has no such stage.
        """
        count = STAGES.index(stage)  # of the stages after the stem
        if count > self.num_stages:
            raise ValueError(f"{self.architecture.name} has no {stage}: the last stage is {STAGES[self.num_stages]}")
        return [self.conv1, self.bn1, *(self.get_submodule(f"layer{i}") for i in range(1, count + 1))]

    def features(self, x: Tensor) -> Tensor:
        """The last feature map, before pooling: `(N, 3, 224, 224) -> (N, C, 7, 7)` for the ImageNet nets."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        for stage in range(1, self.num_stages + 1):
            x = self.get_submodule(f"layer{stage}")(x)
        return x

    def forward(self, x: Tensor) -> Tensor:
        embedding = torch.flatten(self.avgpool(self.features(x)), 1)  # (N, C)
        return self.fc(embedding)


def resnet(
    depth: int, *, variant: Variant = "v1.5", shortcut: Shortcut | None = "B", num_classes: int = 1000
) -> ResNet:
    """A network of the paper's table 1, for 224x224 images; with `shortcut=None`, its plain counterpart.

    Raises:
        ValueError: the depth is not one of 18, 34, 50, 101, 152.
    """
    if depth not in IMAGENET_BLOCKS:
        raise ValueError(f"no ImageNet ResNet has depth {depth}: choose from {', '.join(map(str, IMAGENET_BLOCKS))}")
    return ResNet(
        Architecture(depth=depth, variant=variant, shortcut=shortcut, num_classes=num_classes),
        block=Bottleneck if depth >= 50 else BasicBlock,
        blocks=IMAGENET_BLOCKS[depth],
        widths=(64, 128, 256, 512),
        stem=nn.Conv2d(3, 64, kernel_size=7, stride=2, padding=3, bias=False),
    )


def cifar_resnet(depth: int, *, shortcut: Shortcut | None = "A", num_classes: int = 10) -> ResNet:
    """A network of section 4.2, for 32x32 images: 6n+2 layers, three stages of 16, 32 and 64 filters.

    Raises:
        ValueError: the depth is not 6n+2 with n >= 1.
    """
    n, remainder = divmod(depth - 2, 6)
    if remainder or n < 1:
        raise ValueError(f"a CIFAR ResNet has depth 6n+2 (8, 14, 20, ..., 110, 1202), not {depth}")
    return ResNet(
        Architecture(depth=depth, family="cifar", shortcut=shortcut, num_classes=num_classes),
        block=BasicBlock,
        blocks=(n, n, n),
        widths=(16, 32, 64),
        stem=conv3x3(3, 16),
    )
