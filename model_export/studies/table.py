"""Every network with its parameters and multiply-adds, counted from the network, beside the published figures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from model_export.resnet import IMAGENET_BLOCKS, build
from model_export.weights import usual_preprocessing
from service.card import Architecture, Shortcut

SHORTCUTS: tuple[Shortcut | None, ...] = (None, "A", "B", "C")
CIFAR_DEPTHS = (20, 32, 44, 56, 110, 1202)  # section 4.2: n = 3, 5, 7, 9, 18, 200

# Published figures. Those of the paper are rounded to the digits shown.
PAPER_MACS = {18: 1.8e9, 34: 3.6e9, 50: 3.8e9, 101: 7.6e9, 152: 11.3e9}  # table 1, "FLOPs (multiply-adds)"
PAPER_CIFAR_PARAMETERS = {20: 0.27e6, 32: 0.46e6, 44: 0.66e6, 56: 0.85e6, 110: 1.7e6, 1202: 19.4e6}  # table 6
# Of the models of torchvision, which are option B, v1.5: `meta["num_params"]` and `meta["_ops"]` of its weights.
TORCHVISION_PARAMETERS = {18: 11_689_512, 34: 21_797_672, 50: 25_557_032, 101: 44_549_160, 152: 60_192_808}
TORCHVISION_MACS = {18: 1.814e9, 34: 3.664e9, 50: 4.089e9, 101: 7.801e9, 152: 11.514e9}


class Counts(NamedTuple):
    """What a network costs; multiply-adds are for one image of its usual size."""

    parameters: int
    macs: int


class Published(NamedTuple):
    """A figure that somebody else states for a network."""

    source: Literal["paper", "torchvision"]
    value: float


class Row(NamedTuple):
    """One network."""

    architecture: Architecture
    counts: Counts
    published_parameters: tuple[Published, ...]
    published_macs: tuple[Published, ...]


def count(architecture: Architecture) -> Counts:
    """Counts a network that has shapes but no values, so that the largest takes no memory.

    Multiply-adds are those of convolutions and linear layers, as in the paper's table 1; normalisation, ReLU, pooling
    and additions are left out. The image is 224x224 (32x32 for the CIFAR family).

    Raises:
        ValueError: there is no such depth in this family.
    """
    macs = 0

    def add(layer: nn.Module, _: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal macs
        assert isinstance(layer.weight, Tensor)
        macs += output.numel() * layer.weight[0].numel()  # each output is a sum over one filter's weights

    with torch.device("meta"), torch.no_grad():
        net = build(architecture).eval()
        parameters = sum(parameter.numel() for parameter in net.parameters())
        for module in list(net.modules()):
            for name, layer in module.named_children():
                if isinstance(layer, nn.Conv2d | nn.Linear):
                    layer.register_forward_hook(add)
                elif isinstance(layer, nn.BatchNorm2d | nn.ReLU):  # not counted, and slow to find the shapes of
                    module.add_module(name, nn.Identity())
        side = usual_preprocessing(architecture.family).crop
        net(torch.empty(1, 3, side, side))
    return Counts(parameters, macs)


def table() -> list[Row]:
    """Every network of the paper: by family, depth, shortcut option and, where it makes a difference, variant."""
    return [_row(architecture) for architecture in _architectures()]


def _architectures() -> list[Architecture]:
    found = []
    for depth in IMAGENET_BLOCKS:
        for shortcut in SHORTCUTS:
            v15 = Architecture(depth=depth, shortcut=shortcut)
            if v15.has_bottlenecks:
                found.append(v15.model_copy(update={"variant": "v1"}))
            found.append(v15)
    for depth in CIFAR_DEPTHS:
        options: tuple[Shortcut | None, ...] = ("A",) if depth == 1202 else (None, "A")  # figure 6: no plain-1202
        found += [Architecture(depth=depth, family="cifar", shortcut=option, num_classes=10) for option in options]
    return found


def _row(architecture: Architecture) -> Row:
    a = architecture
    parameters: list[Published] = []
    macs: list[Published] = []
    if a.family == "cifar":
        if a.shortcut == "A":  # table 6 is of residual nets
            parameters.append(Published("paper", PAPER_CIFAR_PARAMETERS[a.depth]))
    elif a.shortcut == "B":
        if a.variant == "v1" or not a.has_bottlenecks:
            macs.append(Published("paper", PAPER_MACS[a.depth]))
        if a.variant == "v1.5":
            parameters.append(Published("torchvision", TORCHVISION_PARAMETERS[a.depth]))
            macs.append(Published("torchvision", TORCHVISION_MACS[a.depth]))
    elif a.shortcut is None and not a.has_bottlenecks:
        macs.append(Published("paper", PAPER_MACS[a.depth]))  # table 1 is of the plain nets too (section 4.1)
    return Row(a, count(a), tuple(parameters), tuple(macs))


def markdown(rows: Sequence[Row]) -> str:
    """The rows as a Markdown table, padded so that it reads as well in a terminal."""
    head = ("Network", "Shortcuts", "Variant", "Parameters", "Published", "Multiply-adds", "Published")
    lines = [head, *(_cells(row) for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    sides = "<<<><><"  # of the cell that its text is on: counts to the right
    padded = [
        [f"{cell:{side}{width}}" for cell, side, width in zip(line, sides, widths, strict=True)] for line in lines
    ]
    rule = ["-" * (width - 1) + (":" if side == ">" else "-") for side, width in zip(sides, widths, strict=True)]
    return "".join(f"| {' | '.join(line)} |\n" for line in (padded[0], rule, *padded[1:]))


def _cells(row: Row) -> tuple[str, ...]:
    a = row.architecture
    return (
        a.name,
        a.shortcut or "none",
        a.variant if a.has_bottlenecks else "",
        f"{row.counts.parameters:,}",
        _published(row.published_parameters, "M", 1e6),
        f"{row.counts.macs / 1e9:.3f} G",
        _published(row.published_macs, "G", 1e9),
    )


def _published(figures: Sequence[Published], unit: str, scale: float) -> str:
    """Each figure with the digits that its source gives."""
    return ", ".join(
        f"{value:,} ({source})" if isinstance(value, int) else f"{value / scale:g} {unit} ({source})"
        for source, value in figures
    )
