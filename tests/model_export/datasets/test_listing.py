"""Which files are images."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from model_export.datasets.listing import is_image
from model_export.datasets.scanning import scan
from tests.model_export.datasets.trees import encoded, tree


@pytest.mark.parametrize("name", ["a.jfif", "a.jpe", "a", "a.JPEG", "photo.2024"])
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_images_are_recognised_by_their_first_bytes(tmp_path: Path, name: str, kind: str) -> None:
    (tmp_path / name).write_bytes(encoded(kind))
    assert is_image(tmp_path / name)


@pytest.mark.parametrize("name", ["notes.txt", "a.gif", "LICENSE", "._a.jpg", "Thumbs.db"])
def test_other_files(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"GIF89a and more")
    assert not is_image(tmp_path / name)


@pytest.mark.parametrize("name", ["pipe", "pipe.jpg"])
def test_pipes_and_folders(tmp_path: Path, name: str) -> None:
    tree(tmp_path, {"a": 1, "b": 1})
    os.mkfifo(tmp_path / "a" / name)  # opening it would wait for ever
    assert not is_image(tmp_path / "a" / name)
    assert not is_image(tmp_path)
    found = scan(tmp_path)
    assert len(found.files) == 2
    assert found.ignored == "1 files that are not images (1 pipe or device)"
