"""The page of a study; its verdict must follow from the errors."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from model_export.studies.findings import results_table, verdict, write_findings
from model_export.studies.study import PAPER, StudyName, get_study
from model_export.training.history import Row
from tests.model_export.conftest import TINY, Trained

CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def history(train_error: float, val_error: float) -> list[Row]:
    return [
        Row(10, 1, 0.1, 1.0, 0.9, 1.0, 0.9, 0, 100, 1),
        Row(20, 2, 0.01, 0.5, train_error, 0.5, val_error, 0, 100, 2),
    ]


def verdict_on(name: StudyName, errors: Mapping[str, tuple[float, float]]) -> str:
    """The verdict on networks with these final training and validation errors."""
    study = get_study(name, TINY)
    results = {title: {label: history(*errors[label]) for label in nets} for title, nets in study.panels.items()}
    return verdict(study, results, "validation")


def test_degradation_is_claimed_only_where_it_shows() -> None:
    shown = {"plain-8": (0.05, 0.1), "plain-14": (0.2, 0.25), "ResNet-8": (0.04, 0.1), "ResNet-14": (0.03, 0.09)}
    assert verdict_on("degradation", shown) == (
        "reproduced: the training error is 5.0 % for plain-8 and 20.0 % for plain-14; 4.0 % for ResNet-8 and 3.0 % for "
        "ResNet-14."
    )
    for missing in ({"plain-14": (0.04, 0.2)}, {"ResNet-14": (0.15, 0.2)}):
        assert verdict_on("degradation", shown | missing).startswith("not reproduced at this scale: ")


def test_options_are_called_better_only_where_they_are() -> None:
    shown = {"plain": (0, 0.3), "A": (0, 0.11), "B": (0, 0.1), "C": (0, 0.09)}
    assert verdict_on("shortcuts", shown) == (
        "every option beats none by more than the options differ: validation error plain 30.0 %, A 11.0 %, B 10.0 %, "
        "C 9.0 %."
    )
    assert "not clearly better than none" in verdict_on("shortcuts", shown | {"A": (0, 0.25)})


def test_depth_is_called_harmless_only_where_it_is() -> None:
    assert verdict_on("depth", {"ResNet-8": (0, 0.2), "ResNet-14": (0, 0.2)}).startswith("depth does not hurt")
    assert verdict_on("depth", {"ResNet-8": (0, 0.2), "ResNet-14": (0, 0.22)}).startswith("deeper is not better")


def test_the_papers_errors_are_shown_for_cifar10_only() -> None:
    study = get_study("depth", PAPER._replace(depth=(20, 110)))  # counting 1202 layers takes seconds
    results = {"": {label: history(0.01, 0.08) for label in study.panels[""]}}
    row = "| ResNet-110 | 1,727,962 | 253 M | 1.00 % | 8.00 % | 6.43 % |"
    table = results_table(study, results, CIFAR10_CLASSES, PAPER.held_out)
    assert "| training error | test error | the paper's test error |" in table
    assert row in table
    assert "6.43" not in results_table(study, results, ("circle", "cross"), "validation")


@pytest.mark.e2e
@pytest.mark.slow
def test_page_and_plot(trained: Trained, tmp_path: Path) -> None:
    study = get_study("depth", TINY)._replace(panels=trained.panels)
    path = write_findings(
        tmp_path,
        study,
        trained.results,
        facts=[("seed", "1")],
        classes=("circle", "cross"),
        held_out="validation",
        notes="Noted.\n",
    )
    page = path.read_text()
    for part in ("![Deeper residual nets](depth.png)", "| plain-8 |", "- seed: 1\n", "Noted.", "- torch: "):
        assert part in page
    assert (tmp_path / "depth.png").read_bytes().startswith(b"\x89PNG")
