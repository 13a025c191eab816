"""Publishes copies of models as `model_export` would, and takes them away. For tests, too."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any


def publish_copy(
    root: Path,
    name: str,
    version: int = 1,
    source: str = "resnet8-cifar",
    change: Callable[[dict[str, Any]], object] = lambda card: None,
) -> Path:
    """The same model under another name or version; it appears at once and complete.

    Args:
        root: a model folder that may be changed, with version 1 of `source`.
        change: changes the card.
    """
    staging = root / f".{name}-{version}"
    shutil.copytree(root / source / "1", staging, copy_function=shutil.copyfile)  # without modes: it may be read-only
    card = json.loads((staging / "card.json").read_text())
    card |= {"name": name, "version": version}
    change(card)
    (staging / "card.json").write_text(json.dumps(card))
    folder = root / name / str(version)
    folder.parent.mkdir(exist_ok=True)
    return staging.rename(folder)


def damage(folder: Path) -> None:
    """Flips one bit in the middle of a version's fp32 file."""
    path = folder / "model.onnx"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def remove(folder: Path) -> None:
    """Removes a version, so that it disappears at once."""
    gone = folder.rename(folder.parent.parent / f".gone-{folder.parent.name}-{folder.name}")
    shutil.rmtree(gone)
