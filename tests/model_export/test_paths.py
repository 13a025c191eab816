"""Home folders, caches, and URLs given as paths."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest

from model_export.errors import InputError
from model_export.paths import cache_folder, expand_home, url_in


def test_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert expand_home(Path("~/pets")) == tmp_path / "pets"
    assert expand_home(Path("pets/~")) == Path("pets/~")
    assert cache_folder("~/.cache") == tmp_path / ".cache"
    with pytest.raises(InputError, match=r"^~nobody-of-this-name/x: the home folder ~nobody-of-this-name is unknown: "):
        expand_home(Path("~nobody-of-this-name/x"))


def test_without_a_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No HOME, and a user id that is not in passwd."""
    monkeypatch.setattr(os.path, "expanduser", lambda path: str(path))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with pytest.raises(InputError, match="the home folder ~ is unknown: give the path in full"):
        expand_home(Path("~/pets"))
    assert cache_folder("~/.cache") == tmp_path / f"resnet-service-{os.getuid()}" / ".cache"
    assert cache_folder("/caches") == Path("/caches")


@pytest.mark.parametrize(
    ("path", "url"),
    [
        ("https://example.org/pets.zip", "https://example.org/pets.zip"),
        ("/data/https:/example.org/pets.zip", "https://example.org/pets.zip"),
        ("S3://bucket/net.pth", "S3://bucket/net.pth"),
        ("pets/2024", None),
        ("C:/pets", None),
        ("pets:new/1", None),
    ],
)
def test_urls(path: str, url: str | None) -> None:
    assert url_in(Path(path)) == url
