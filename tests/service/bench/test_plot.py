"""The picture of latencies."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from PIL import Image

from service.bench.levels import Level
from service.bench.plot import draw, latency_ticks

pytest.importorskip("matplotlib", reason="the extra `plot` is not installed")

LEVELS = [
    Level(8, None, 2.0, [float(place) for place in range(1, 1001)], {}, 0.1),
    Level(None, 50.0, 2.0, [5.0], {}, 0.1),
    Level(None, 60.0, 2.0, [], {}, 0.1),
]


def test_an_svg_names_every_level(tmp_path: Path) -> None:
    draw(LEVELS, "http://server", tmp_path / "a.svg")
    text = (tmp_path / "a.svg").read_text()
    for words in ("8 connections: 500.0 images/s", "50 requests/s: 0.5 images/s", "http://server", "99.9"):
        assert words in text
    assert re.findall(r"<!-- (\d+0) -->", text) == ["50", "90", "10", "20", "50", "100", "200", "500", "1000"]


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (18, 750, [20, 50, 100, 200, 500]),
        (3.5, 9.5, [4, 5, 6, 7, 8, 9]),
        (24, 45, [25, 30, 35, 40, 45]),
        (101, 101.5, [101, 101.1, 101.2, 101.3, 101.4, 101.5]),
        (0.4, 11, [0.5, 1, 2, 5, 10]),
    ],
)
def test_latencies_have_marks_to_read_them_by(low: float, high: float, ticks: list[float]) -> None:
    assert latency_ticks(low, high) == pytest.approx(ticks)


@pytest.mark.parametrize("levels", [LEVELS, []])
def test_a_png(levels: list[Level], tmp_path: Path) -> None:
    draw(levels, "http://server", tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as picture:
        assert picture.size == (800, 500)
