"""Folders of real image files, for tests."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from model_export.errors import InputError


def encoded(kind: str = "JPEG", colour: str = "red", size: tuple[int, int] = (40, 30), comment: str = "") -> bytes:
    file = io.BytesIO()
    Image.new("RGB", size, colour).save(file, kind, comment=comment)
    return file.getvalue()


def write(root: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    return root


def tree(root: Path, counts: dict[str, int]) -> Path:
    """Each file has its own name as a comment, so that none is a copy of another."""
    names = [f"{name}/{i:03}.jpg" for name, count in counts.items() for i in range(count)]
    return write(root, {name: encoded(comment=name) for name in names})


def refusal(action: Callable[..., object], *args: object, **options: object) -> str:
    with pytest.raises(InputError) as caught:
        action(*args, **options)
    return str(caught.value)
