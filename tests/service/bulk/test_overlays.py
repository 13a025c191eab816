"""The folder of overlays."""

from __future__ import annotations

from pathlib import Path

import pytest

from service.bulk.overlays import Overlays


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("a.jpg", "a.jpg.png"),
        ("./photos/a.jpg", "photos/a.jpg.png"),
        ("/archive/a.jpg", "archive/a.jpg.png"),
        ("../../etc/a.jpg", "_/_/etc/a.jpg.png"),
        ("-", "-.png"),
    ],
)
def test_no_name_leads_out_of_the_folder(name: str, path: str, tmp_path: Path) -> None:
    overlays = Overlays(tmp_path / "why")
    overlays.write(name, b"a picture")
    assert (tmp_path / "why" / path).read_bytes() == b"a picture"
    assert [found for found in tmp_path.rglob("*") if found.is_file()] == [tmp_path / "why" / path]


def test_long_names_are_shortened_and_stay_apart(tmp_path: Path) -> None:
    overlays = Overlays(tmp_path)
    names = [f"{'x' * 250}{number}.jpg" for number in range(2)]
    for name in names:
        overlays.write(name, name.encode())
    assert [overlays.path(name).read_bytes() for name in names] == [name.encode() for name in names]
