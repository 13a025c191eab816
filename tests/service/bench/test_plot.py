"""The picture of latencies."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from service.bench.levels import Level
from service.bench.plot import draw

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


@pytest.mark.parametrize("levels", [LEVELS, []])
def test_a_png(levels: list[Level], tmp_path: Path) -> None:
    draw(levels, "http://server", tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as picture:
        assert picture.size == (800, 500)
