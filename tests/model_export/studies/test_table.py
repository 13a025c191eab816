import pytest

from model_export.studies.table import (
    CIFAR_DEPTHS,
    PAPER_CIFAR_PARAMETERS,
    PAPER_MACS,
    TORCHVISION_MACS,
    TORCHVISION_PARAMETERS,
    Counts,
    Published,
    Row,
    count,
    markdown,
    table,
)
from service.card import Architecture

# Counted by other means (from the shapes in table 1 and section 4.2), for 1000 classes: depth -> A or plain, B, C
IMAGENET_PARAMETERS = {
    18: (11_515_688, 11_689_512, 12_043_816),
    34: (21_623_848, 21_797_672, 22_716_840),
    50: (22_780_456, 25_557_032, 40_128_552),
    101: (41_772_584, 44_549_160, 76_981_288),
    152: (57_416_232, 60_192_808, 107_335_720),
}
V1_MACS = {50: 3.858e9, 101: 7.570e9, 152: 11.282e9}
CIFAR_PARAMETERS = {20: 269_722, 32: 464_154, 44: 658_586, 56: 853_018, 110: 1_727_962, 1202: 19_421_274}


@pytest.fixture(scope="module")
def rows() -> dict[Architecture, Row]:
    return {row.architecture: row for row in table()}


def test_every_network_is_there_once(rows: dict[Architecture, Row]) -> None:
    names = [(a.name, a.shortcut, a.variant) for a in rows]
    assert len(names) == len(set(names)) == 8 + 24 + 11  # basic blocks, bottlenecks, CIFAR
    assert {a.depth for a in rows if a.family == "cifar"} == set(CIFAR_DEPTHS)
    assert {a.variant for a in rows if a.depth in (18, 34)} == {"v1.5"}


def test_parameters(rows: dict[Architecture, Row]) -> None:
    for architecture, row in rows.items():
        if architecture.family == "cifar":
            assert row.counts.parameters == CIFAR_PARAMETERS[architecture.depth]
        else:
            column = {None: 0, "A": 0, "B": 1, "C": 2}[architecture.shortcut]
            assert row.counts.parameters == IMAGENET_PARAMETERS[architecture.depth][column]


@pytest.mark.parametrize("depth", TORCHVISION_MACS)
def test_multiply_adds_of_v1_5(rows: dict[Architecture, Row], depth: int) -> None:
    assert rows[Architecture(depth=depth)].counts.macs == pytest.approx(TORCHVISION_MACS[depth], abs=0.0005e9)


@pytest.mark.parametrize("depth", V1_MACS)
def test_multiply_adds_of_v1(rows: dict[Architecture, Row], depth: int) -> None:
    counted = rows[Architecture(depth=depth, variant="v1")].counts.macs
    assert counted == pytest.approx(V1_MACS[depth], abs=0.0005e9)


def test_published_figures_are_beside_and_agree(rows: dict[Architecture, Row]) -> None:
    found = {"paper": 0, "torchvision": 0}
    for row in rows.values():
        for source, value in row.published_parameters:
            found[source] += 1
            if source == "torchvision":
                assert row.counts.parameters == value
            else:
                assert row.counts.parameters == pytest.approx(value, rel=0.02)  # two or three digits
        for source, value in row.published_macs:
            found[source] += 1
            # The paper cuts digits off rather than rounding (ResNet-50: 3.858 is given as 3.8)
            assert row.counts.macs == pytest.approx(value, abs=0.0005e9 if source == "torchvision" else 0.07e9)
    # The paper's table 1 stands beside plain-18 and plain-34 too.
    assert found["paper"] == len(PAPER_MACS) + 2 + len(PAPER_CIFAR_PARAMETERS)
    assert found["torchvision"] == len(TORCHVISION_MACS) + len(TORCHVISION_PARAMETERS)


def test_option_a_costs_what_the_plain_net_costs(rows: dict[Architecture, Row]) -> None:
    """Section 3.3: the shortcuts of figure 3 add neither parameters nor computation."""
    for architecture in [a for a in rows if a.shortcut == "A" and a.depth != 1202]:
        assert rows[architecture.model_copy(update={"shortcut": None})].counts == rows[architecture].counts


def test_counts_by_hand() -> None:
    """ResNet-8 of the CIFAR family with 3 classes: 3 stages of one block, 32x32, 16x16 and 8x8 outputs."""
    conv = 3 * 16 * 9 + 2 * 16 * 16 * 9 + (16 * 32 + 32 * 32) * 9 + (32 * 64 + 64 * 64) * 9
    norm = 2 * (3 * 16 + 2 * 32 + 2 * 64)
    macs = 1024 * (3 * 16 * 9 + 2 * 16 * 16 * 9) + 256 * (16 * 32 + 32 * 32) * 9 + 64 * (32 * 64 + 64 * 64) * 9
    architecture = Architecture(depth=8, family="cifar", shortcut="A", num_classes=3)
    assert count(architecture) == Counts(conv + norm + 64 * 3 + 3, macs + 64 * 3)


def test_a_depth_there_is_not() -> None:
    with pytest.raises(ValueError, match="no ImageNet ResNet has depth 19"):
        count(Architecture(depth=19))


def test_markdown() -> None:
    rows = [
        Row(Architecture(depth=34, shortcut=None), Counts(21_623_848, 3_644_000_000), (), (Published("paper", 3.6e9),)),
        Row(
            Architecture(depth=50),
            Counts(25_557_032, 4_089_184_256),
            (Published("torchvision", 25_557_032),),
            (Published("torchvision", 4.089e9),),
        ),
        Row(
            Architecture(depth=20, family="cifar", shortcut="A"),
            Counts(269_722, 40_551_000),
            (Published("paper", 0.27e6),),
            (),
        ),
    ]
    lines = markdown(rows).splitlines()
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
