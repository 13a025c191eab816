"""Writing so that, after a crash too, a file or folder is whole or absent."""

from __future__ import annotations

import os
from pathlib import Path


def flush(path: Path) -> None:
    """Forces the content of a file, or the entries of a folder, to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def move_into_place(temporary: Path, path: Path) -> None:
    """Renames a finished file to another name in the same folder."""
    flush(temporary)
    temporary.replace(path)
    flush(path.parent)
