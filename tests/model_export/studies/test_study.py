"""Which networks each study compares."""

from __future__ import annotations

from model_export.studies.study import PAPER, SMALL, get_study
from model_export.training.recipes import RECIPES


def test_the_paper_scale_is_section_4_2() -> None:
    assert (PAPER.data, PAPER.split) == ("cifar10", "train,test")
    assert (PAPER.held_out, SMALL.held_out) == ("test", "validation")
    assert PAPER.recipe == ()
    assert PAPER.degradation == (20, 32, 44, 56, 110)
    assert PAPER.depth == (20, 32, 44, 56, 110, 1202)
    assert RECIPES["paper-cifar"].steps == 64_000


def test_a_copy_of_cifar10_is_divided_as_in_the_paper() -> None:
    assert PAPER.on("cifar10:/data/cifar")[:2] == ("cifar10:/data/cifar", ())
    assert [scale.split for scale in (PAPER.on("cifar10:/data/cifar"), PAPER.on("pictures"), SMALL.on("cifar10"))] == [
        "train,test", "auto", "auto"
    ]  # fmt: skip


def test_degradation_compares_plain_and_residual_nets_of_the_same_depths() -> None:
    panels = get_study("degradation", SMALL).panels
    assert {net.shortcut for net in panels["plain"].values()} == {None}
    assert {net.shortcut for net in panels["residual"].values()} == {"A"}
    assert [net.depth for net in panels["plain"].values()] == [net.depth for net in panels["residual"].values()]


def test_shortcuts_compares_all_options_at_one_depth() -> None:
    (nets,) = get_study("shortcuts", SMALL).panels.values()
    assert [net.shortcut for net in nets.values()] == [None, "A", "B", "C"]
    assert len({net.depth for net in nets.values()}) == 1
