"""What operating systems leave in folders of images."""

from __future__ import annotations

from pathlib import Path

import pytest

from model_export.datasets.listing import class_folders
from model_export.datasets.scanning import scan
from tests.model_export.datasets.trees import tree, write


def test_leftovers_are_ignored(tmp_path: Path) -> None:
    left = ("@eaDir", "$RECYCLE.BIN", "System Volume Information", "__MACOSX", "lost+found", ".git", "#recycle")
    tree(tmp_path, {"a": 1, "b": 1, "a/@eaDir/000.jpg": 1} | dict.fromkeys(left, 1))
    write(tmp_path, {"Thumbs.db": b"", "a/desktop.ini": b"", "a/._000.jpg": b""})
    found = scan(tmp_path)
    assert found.classes == ("a", "b")
    assert [path.name for path, _ in found.files] == ["000.jpg", "000.jpg"]
    for name in ("@eaDir", "$RECYCLE.BIN", "3 files that are not images", "1 hidden"):
        assert name in found.ignored


@pytest.mark.parametrize(
    "name",
    [
        *("FOUND.000", "found.017", "@Recently-Snapshot", "@sharebin", "@Recycle", "@GMT-2024.01.31-10.00.00"),
        *("$Windows.~BT", "Network Trash Folder", "Temporary Items", ".Spotlight-V100", "~snapshot"),
    ],
)
def test_leftover_folders(tmp_path: Path, name: str) -> None:
    found = scan(tree(tmp_path, {"a": 1, "b": 1, name: 1, f"a/{name}": 1}))
    assert (found.classes, len(found.files)) == (("a", "b"), 2)
    assert found.ignored == f"the folders {name}"


def test_class_names_close_to_leftovers(tmp_path: Path) -> None:
    names = ["#hashtag", "$100", "@home", "found", "found.new", "recycled", "snapshot"]
    assert [path.name for path in class_folders(tree(tmp_path, dict.fromkeys(names, 1)))] == names
