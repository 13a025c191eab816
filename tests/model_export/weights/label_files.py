"""Label files, and the labels that they hold."""

from __future__ import annotations

from pathlib import Path

from service.runtime.model_card import Label

TENCH = Label(name="tench", wnid="n01440764")
SHARK = Label(name="great white shark", wnid="n01484850")


def names(*given: str) -> tuple[Label, ...]:
    return tuple(Label(name=name) for name in given)


def write(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path
