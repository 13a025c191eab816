"""The table of all networks: counted parameters and multiply-adds beside the reported ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

from model_export.nets.resnet import IMAGENET_BLOCKS
from model_export.studies.cost import NetworkCost, count_cost
from model_export.studies.study import cifar_net
from service.runtime.model_card import Architecture, Shortcut

SHORTCUTS: tuple[Shortcut | None, ...] = (None, "A", "B", "C")
CIFAR_DEPTHS = (20, 32, 44, 56, 110, 1202)  # section 4.2: n = 3, 5, 7, 9, 18, 200

# Reported figures. The paper gives two or three digits.
PAPER_MACS = {18: 1.8e9, 34: 3.6e9, 50: 3.8e9, 101: 7.6e9, 152: 11.3e9}  # table 1, "FLOPs (multiply-adds)"
PAPER_CIFAR_PARAMETERS = {20: 0.27e6, 32: 0.46e6, 44: 0.66e6, 56: 0.85e6, 110: 1.7e6, 1202: 19.4e6}  # table 6
# torchvision's models (option B, v1.5): `meta["num_params"]` and `meta["_ops"]` of its weights.
TORCHVISION_PARAMETERS = {18: 11_689_512, 34: 21_797_672, 50: 25_557_032, 101: 44_549_160, 152: 60_192_808}
TORCHVISION_MACS = {18: 1.814e9, 34: 3.664e9, 50: 4.089e9, 101: 7.801e9, 152: 11.514e9}


class ReportedCount(NamedTuple):
    """Parameters or multiply-adds of a network as its source states them."""

    source: Literal["paper", "torchvision"]
    value: float


class NetworkRow(NamedTuple):
    """One network, with its counted and reported costs."""

    architecture: Architecture
    cost: NetworkCost
    reported_parameters: tuple[ReportedCount, ...]
    reported_macs: tuple[ReportedCount, ...]


def network_rows() -> list[NetworkRow]:
    """Every network of the paper: by family, depth, shortcut option and, for bottleneck nets, variant."""
    return [_row(architecture) for architecture in _architectures()]


def _architectures() -> list[Architecture]:
    architectures = []
    for depth in IMAGENET_BLOCKS:
        for shortcut in SHORTCUTS:
            v15 = Architecture(depth=depth, shortcut=shortcut)
            if v15.has_bottlenecks:
                architectures.append(v15.model_copy(update={"variant": "v1"}))
            architectures.append(v15)
    for depth in CIFAR_DEPTHS:
        options: tuple[Shortcut | None, ...] = ("A",) if depth == 1202 else (None, "A")  # figure 6: no plain-1202
        architectures += [cifar_net(depth, option) for option in options]
    return architectures


def _row(architecture: Architecture) -> NetworkRow:
    a = architecture
    parameters: list[ReportedCount] = []
    macs: list[ReportedCount] = []
    if a.family == "cifar":
        if a.shortcut == "A":  # table 6 lists residual nets
            parameters.append(ReportedCount("paper", PAPER_CIFAR_PARAMETERS[a.depth]))
    elif a.shortcut == "B":
        if a.variant == "v1" or not a.has_bottlenecks:
            macs.append(ReportedCount("paper", PAPER_MACS[a.depth]))
        if a.variant == "v1.5":
            parameters.append(ReportedCount("torchvision", TORCHVISION_PARAMETERS[a.depth]))
            macs.append(ReportedCount("torchvision", TORCHVISION_MACS[a.depth]))
    elif a.shortcut is None and not a.has_bottlenecks:
        macs.append(ReportedCount("paper", PAPER_MACS[a.depth]))  # table 1 holds for plain nets too (section 4.1)
    return NetworkRow(a, count_cost(a), tuple(parameters), tuple(macs))


def to_markdown(rows: Sequence[NetworkRow]) -> str:
    """The rows as a Markdown table, padded to be readable in a terminal too."""
    head = ("Network", "Shortcuts", "Variant", "Parameters", "Published", "Multiply-adds", "Published")
    lines = [head, *(_cells(row) for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    alignments = "<<<><><"  # counts to the right
    padded = [
        [f"{cell:{alignment}{width}}" for cell, alignment, width in zip(line, alignments, widths, strict=True)]
        for line in lines
    ]
    rule = [
        "-" * (width - 1) + (":" if alignment == ">" else "-")
        for alignment, width in zip(alignments, widths, strict=True)
    ]
    return "".join(f"| {' | '.join(line)} |\n" for line in (padded[0], rule, *padded[1:]))


def _cells(row: NetworkRow) -> tuple[str, ...]:
    a = row.architecture
    return (
        a.name,
        a.shortcut or "none",
        a.variant if a.has_bottlenecks else "",
        f"{row.cost.parameters:,}",
        _reported(row.reported_parameters, "M", 1e6),
        f"{row.cost.macs / 1e9:.3f} G",
        _reported(row.reported_macs, "G", 1e9),
    )


def _reported(figures: Sequence[ReportedCount], unit: str, scale: float) -> str:
    """Each figure with the digits its source gives."""
    return ", ".join(
        f"{value:,} ({source})" if isinstance(value, int) else f"{value / scale:g} {unit} ({source})"
        for source, value in figures
    )
