"""Changes what a model folder says beside its versions, one process at a time."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from service.runtime.disk import locked, write_atomically
from service.runtime.model_state import (
    FOLDER_FILE,
    STATE_FILE,
    FolderState,
    ModelState,
    read_folder_state,
    read_state,
)


def change_state(model_root: Path, change: Callable[[ModelState], ModelState]) -> None:
    """Changes `model.json`. `change` runs under the lock. Raises CardError, OSError, and what `change` raises."""
    with locked(model_root):
        before = read_state(model_root)
        after = change(before)
        if after != before:
            write_atomically(model_root / STATE_FILE, after.to_json().encode())


def change_folder_state(root: Path, change: Callable[[FolderState], FolderState]) -> None:
    """Changes `models.json`. As `change_state`."""
    with locked(root):
        before = read_folder_state(root)
        after = change(before)
        if after != before:
            write_atomically(root / FOLDER_FILE, after.to_json().encode())
