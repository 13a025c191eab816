"""Every network, counted, against the reported figures."""

from __future__ import annotations

import pytest

from model_export.studies.cost import NetworkCost
from model_export.studies.network_table import (
    CIFAR_DEPTHS,
    PAPER_CIFAR_PARAMETERS,
    PAPER_MACS,
    TORCHVISION_MACS,
    TORCHVISION_PARAMETERS,
    NetworkRow,
    ReportedCount,
    network_rows,
    to_markdown,
)
from service.runtime.model_card import Architecture
from tests.model_export.parameter_counts import CIFAR_PARAMETERS, IMAGENET_PARAMETERS

V1_MACS = {50: 3.858e9, 101: 7.570e9, 152: 11.282e9}


@pytest.fixture(scope="module")
def rows() -> dict[Architecture, NetworkRow]:
    return {row.architecture: row for row in network_rows()}


def test_every_network_is_listed_once(rows: dict[Architecture, NetworkRow]) -> None:
    names = [(a.name, a.shortcut, a.variant) for a in rows]
    assert len(names) == len(set(names)) == 8 + 24 + 11  # basic blocks, bottlenecks, CIFAR
    assert {a.depth for a in rows if a.family == "cifar"} == set(CIFAR_DEPTHS)
    assert {a.variant for a in rows if a.depth in (18, 34)} == {"v1.5"}


def test_parameters(rows: dict[Architecture, NetworkRow]) -> None:
    for architecture, row in rows.items():
        if architecture.family == "cifar":
            assert row.cost.parameters == CIFAR_PARAMETERS[architecture.depth]
        else:
            column = {None: 0, "A": 0, "B": 1, "C": 2}[architecture.shortcut]
            assert row.cost.parameters == IMAGENET_PARAMETERS[architecture.depth][column]


@pytest.mark.parametrize("depth", TORCHVISION_MACS)
def test_multiply_adds_of_v1_5(rows: dict[Architecture, NetworkRow], depth: int) -> None:
    assert rows[Architecture(depth=depth)].cost.macs == pytest.approx(TORCHVISION_MACS[depth], abs=0.0005e9)


@pytest.mark.parametrize("depth", V1_MACS)
def test_multiply_adds_of_v1(rows: dict[Architecture, NetworkRow], depth: int) -> None:
    counted = rows[Architecture(depth=depth, variant="v1")].cost.macs
    assert counted == pytest.approx(V1_MACS[depth], abs=0.0005e9)


def test_reported_figures_agree_with_the_counts(rows: dict[Architecture, NetworkRow]) -> None:
    figures = {"paper": 0, "torchvision": 0}
    for row in rows.values():
        for source, value in row.reported_parameters:
            figures[source] += 1
            if source == "torchvision":
                assert row.cost.parameters == value
            else:
                assert row.cost.parameters == pytest.approx(value, rel=0.02)  # two or three digits
        for source, value in row.reported_macs:
            figures[source] += 1
            # The paper truncates rather than rounds (ResNet-50: 3.858 becomes 3.8)
            assert row.cost.macs == pytest.approx(value, abs=0.0005e9 if source == "torchvision" else 0.07e9)
    # The paper's table 1 holds for plain-18 and plain-34 too.
    assert figures["paper"] == len(PAPER_MACS) + 2 + len(PAPER_CIFAR_PARAMETERS)
    assert figures["torchvision"] == len(TORCHVISION_MACS) + len(TORCHVISION_PARAMETERS)


def test_option_a_costs_what_the_plain_net_costs(rows: dict[Architecture, NetworkRow]) -> None:
    """Section 3.3: the shortcuts of figure 3 add neither parameters nor computation."""
    for architecture in [a for a in rows if a.shortcut == "A" and a.depth != 1202]:
        assert rows[architecture.model_copy(update={"shortcut": None})].cost == rows[architecture].cost


def test_markdown() -> None:
    rows = [
        NetworkRow(
            Architecture(depth=34, shortcut=None),
            NetworkCost(21_623_848, 3_644_000_000),
            (),
            (ReportedCount("paper", 3.6e9),),
        ),
        NetworkRow(
            Architecture(depth=50),
            NetworkCost(25_557_032, 4_089_184_256),
            (ReportedCount("torchvision", 25_557_032),),
            (ReportedCount("torchvision", 4.089e9),),
        ),
        NetworkRow(
            Architecture(depth=20, family="cifar", shortcut="A"),
            NetworkCost(269_722, 40_551_000),
            (ReportedCount("paper", 0.27e6),),
            (),
        ),
    ]
    lines = to_markdown(rows).splitlines()
    assert len({len(line) for line in lines}) == 1  # padded
    assert [[cell.strip() for cell in line.strip("|").split("|")] for line in (lines[0], *lines[2:])] == [
        ["Network", "Shortcuts", "Variant", "Parameters", "Published", "Multiply-adds", "Published"],
        ["plain34", "none", "", "21,623,848", "", "3.644 G", "3.6 G (paper)"],
        ["resnet50", "B", "v1.5", "25,557,032", "25,557,032 (torchvision)", "4.089 G", "4.089 G (torchvision)"],
        ["resnet20-cifar", "A", "", "269,722", "0.27 M (paper)", "0.041 G", ""],
    ]
    assert [cell.strip().endswith(":") for cell in lines[1].strip("|").split("|")] == [False] * 3 + [
        True,
        False,
        True,
        False,
    ]
