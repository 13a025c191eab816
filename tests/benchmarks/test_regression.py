"""The statistics of paired loads, from invented figures."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pytest

from benchmarks.regression import ROOT, check_tree, compare, order, report, service_options


def test_every_second_pair_is_the_other_way_round() -> None:
    assert [order(pair)[0] for pair in range(3)] == ["baseline", "current", "baseline"]
    assert set(order(0)) == set(order(1))


def test_a_constant_ratio_has_no_spread() -> None:
    assert compare([1.0, 2.0, 4.0], [1.5, 3.0, 6.0]) == pytest.approx((1.5, 1.5, 1.5, 1.5))


def test_ratios_are_averaged_geometrically() -> None:
    ratio = compare([1.0, 1.0, 1.0], [0.5, 2.0, 8.0])
    assert ratio.median == pytest.approx(2)
    assert ratio.mean == pytest.approx(2)
    assert ratio.low == pytest.approx(0.5)
    assert ratio.high == pytest.approx(8)


def test_swapped_trees_have_the_inverse_ratio() -> None:
    baseline, current = [1.0, 2.0, 3.0, 5.0], [1.1, 1.9, 3.2, 5.1]
    forward, backward = compare(baseline, current), compare(current, baseline)
    assert forward.median == pytest.approx(1 / backward.median)
    assert forward.mean == pytest.approx(1 / backward.mean)
    assert (forward.low, forward.high) == pytest.approx((1 / backward.high, 1 / backward.low), rel=0.01)


def test_the_speed_of_the_machine_cancels_within_pairs() -> None:
    speeds = np.array([1.0, 3.0, 0.5, 2.0])
    assert compare(speeds, 1.01 * speeds) == pytest.approx((1.01, 1.01, 1.01, 1.01))


def test_the_interval_holds_the_true_ratio_about_as_often_as_it_says() -> None:
    """20 pairs with a noise of 5 %, 200 times: 95 % of the intervals, less the few that a bootstrap is too narrow."""
    random = np.random.default_rng(1)
    held = 0
    for _ in range(200):
        ratio = compare(np.ones(20), 1.1 * np.exp(random.normal(0, 0.05, 20)))
        held += ratio.low <= 1.1 <= ratio.high
    assert 0.88 <= held / 200 <= 0.98


def test_what_differs_from_start_to_start_is_in_the_interval() -> None:
    """Eight starts of five pairs each, whose processes differ by 3 %: as above."""
    random = np.random.default_rng(1)
    held = {None: 0, 8: 0}
    for _ in range(200):
        of_starts = np.repeat(random.normal(0, 0.03, 8), 5)
        current = 1.1 * np.exp(of_starts + random.normal(0, 0.02, 40))
        for starts in held:
            ratio = compare(np.ones(40), current, starts)
            held[starts] += ratio.low <= 1.1 <= ratio.high
    assert 0.82 <= held[8] / 200 <= 0.98
    assert held[None] / 200 < 0.7  # as if each pair had processes of its own


def test_the_interval_is_reproducible() -> None:
    assert compare([1.0, 1.0, 1.0], [0.9, 1.0, 1.2]) == compare([1.0, 1.0, 1.0], [0.9, 1.0, 1.2])


def test_the_report_has_every_pair_and_the_ratios() -> None:
    samples = [
        {
            "baseline": {"cpu_ms": 2.0, "images_per_second": 100.0, "p50": 1.0},
            "current": {"cpu_ms": 1.0, "images_per_second": 150.0, "p50": 1.0},
        }
    ] * 2
    text, ratios = report(samples, 2)
    assert "| 1 | baseline | 2.000 | 1.000 | 0.500 | 100.000 | 150.000 | 1.500 |" in text
    assert "| 2 | current | 2.000 | 1.000 | 0.500 | 100.000 | 150.000 | 1.500 |" in text
    assert "| CPU-ms per image | 2.000 | 1.000 | 0.500 | 0.500 | 0.500–0.500 |" in text
    assert ratios["images_per_second"].mean == pytest.approx(1.5)


def test_a_tree_needs_the_service_and_its_extension(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="is not a source tree"):
        check_tree(tmp_path)
    (tmp_path / "service").mkdir()
    (tmp_path / "service" / "__main__.py").touch()
    with pytest.raises(FileNotFoundError, match="build_ext --inplace"):
        check_tree(tmp_path)
    (tmp_path / "service" / "_resample.abi3.so").touch()
    check_tree(tmp_path)
    assert (ROOT / "service" / "__main__.py").exists()


def test_options_of_the_service_are_pairs() -> None:
    assert service_options("--provider=cpu --max-batch=8") == {"provider": "cpu", "max-batch": "8"}
    assert service_options("") == {}
    with pytest.raises(argparse.ArgumentTypeError, match="expected --name=value, got --provider"):
        service_options("--provider cpu")
