"""Studies: what they compare, how they run, and that their sentences follow from the figures."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from model_export.errors import InputError
from model_export.studies import report
from model_export.studies.deepest import demonstrate
from model_export.studies.study import PAPER, SMALL, Scale, StudyName, cifar, classes_of, study, train_all
from model_export.training.history import Row
from model_export.training.recipe import RECIPES
from tests.model_export.conftest import TINY, Trained

CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def rows(train: float, val: float) -> list[Row]:
    return [Row(10, 1, 0.1, 1.0, 0.9, 1.0, 0.9, 0, 100, 1), Row(20, 2, 0.01, 0.5, train, 0.5, val, 0, 100, 2)]


def outcome(name: StudyName, errors: Mapping[str, tuple[float, float]], scale: Scale = TINY) -> str:
    """The verdict on networks that ended with these training and validation errors."""
    chosen = study(name, scale)
    results = {title: {label: rows(*errors[label]) for label in nets} for title, nets in chosen.panels.items()}
    return report.verdict(chosen, results)


def test_the_paper_s_scale_is_section_4_2() -> None:
    assert PAPER.data == "cifar10"
    assert PAPER.recipe == ()
    assert PAPER.degradation == (20, 32, 44, 56, 110)
    assert PAPER.depth == (20, 32, 44, 56, 110, 1202)
    assert RECIPES["paper-cifar"].steps == 64_000


def test_degradation_compares_plain_and_residual_nets_of_the_same_depths() -> None:
    panels = study("degradation", SMALL).panels
    assert {net.shortcut for net in panels["plain"].values()} == {None}
    assert {net.shortcut for net in panels["residual"].values()} == {"A"}
    assert [net.depth for net in panels["plain"].values()] == [net.depth for net in panels["residual"].values()]


def test_shortcuts_compares_all_options_at_one_depth() -> None:
    (nets,) = study("shortcuts", SMALL).panels.values()
    assert [net.shortcut for net in nets.values()] == [None, "A", "B", "C"]
    assert len({net.depth for net in nets.values()}) == 1


def test_degradation_is_claimed_only_where_it_shows() -> None:
    shown = {"plain-8": (0.05, 0.1), "plain-14": (0.2, 0.25), "ResNet-8": (0.04, 0.1), "ResNet-14": (0.03, 0.09)}
    assert outcome("degradation", shown).startswith("it shows: the training error of plain-8 is 5.0 %")
    for missing in ({"plain-14": (0.04, 0.2)}, {"ResNet-14": (0.15, 0.2)}):
        assert outcome("degradation", shown | missing).startswith("it does not show at this scale: ")


def test_options_are_called_better_only_where_they_are() -> None:
    shown = {"plain": (0, 0.3), "A": (0, 0.11), "B": (0, 0.1), "C": (0, 0.09)}
    assert outcome("shortcuts", shown).startswith("all options are better than none")
    assert "do not stand apart" in outcome("shortcuts", shown | {"A": (0, 0.25)})


def test_depth_is_called_harmless_only_where_it_is() -> None:
    assert outcome("depth", {"ResNet-8": (0, 0.2), "ResNet-14": (0, 0.2)}).startswith("depth does not hurt")
    assert outcome("depth", {"ResNet-8": (0, 0.2), "ResNet-14": (0, 0.22)}).startswith("deeper is not better")


def test_the_papers_figures_stand_beside_those_of_cifar10_only() -> None:
    chosen = study("depth", PAPER._replace(depth=(20, 110)))  # counting 1202 layers takes seconds
    results = {"": {label: rows(0.01, 0.08) for label in chosen.panels[""]}}
    assert "| ResNet-110 | 1,727,962 | 253 M | 1.00 % | 8.00 % | 6.43 % |" in report.table(
        chosen, results, CIFAR10_CLASSES
    )
    assert "6.43" not in report.table(chosen, results, ("circle", "cross"))


def test_networks_are_trained_once_and_written_about(trained: Trained, tmp_path: Path) -> None:
    panels, seed, folder, results = trained
    assert [row.step for row in results[""]["plain-8"]] == [2]
    before = (folder / "plain-8" / "report.html").stat().st_mtime_ns
    assert train_all(panels, TINY, folder, seed=seed) == results  # finished runs are not run again
    assert (folder / "plain-8" / "report.html").stat().st_mtime_ns == before

    assert classes_of(panels, folder) == ("circle", "cross")
    with pytest.raises(InputError, match="holds runs of another study"):
        train_all(panels, TINY, folder, seed=seed + 1)
    chosen = study("depth", TINY)._replace(panels=panels)
    path = report.write(tmp_path, chosen, results, facts=[("seed", "1")], classes=("circle", "cross"), notes="Noted.\n")
    page = path.read_text()
    for part in ("![Deeper residual nets](depth.png)", "| plain-8 |", "- seed: 1\n", "Noted.", "- torch: "):
        assert part in page
    assert (tmp_path / "depth.png").read_bytes().startswith(b"\x89PNG")


def test_a_run_that_fails_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"ResNet-9 ended early \(error: .*6n\+2.*log\.txt"):
        train_all({"": {"ResNet-9": cifar(9)}}, TINY, tmp_path, seed=0)


def test_the_deepest_net_goes_all_the_way() -> None:
    """With 14 layers instead of 1202, which take minutes."""
    told = demonstrate(14)
    assert told.startswith("ResNet-14 (172,506 parameters) is built in ")
    assert "top-1 agreement 100 %" in told
