"""A folder of overlays: why each image has its best class."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path, PurePosixPath

MOST_BYTES = 200  # of a file's name; systems take 255, and a suffix comes


class Overlays:
    """Writes overlays below a folder, as the images lie: that of `photos/a.jpg` as `photos/a.jpg.png`."""

    def __init__(self, folder: Path) -> None:
        """Raises OSError if the folder cannot be made."""
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def path(self, name: str) -> Path:
        """Where the overlay of an image is, by the name of its row; never outside of the folder."""
        parts = ["_" if part == ".." else part for part in PurePosixPath(name).parts if part != "/"]
        return self._folder.joinpath(*map(_short, parts[:-1]), _short(parts[-1]) + ".png")

    def write(self, name: str, overlay: bytes) -> None:
        """Whole or not at all. Raises OSError."""
        path = self.path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_name(f".{path.name}.{os.getpid()}")
        draft.write_bytes(overlay)
        draft.replace(path)


def _short(part: str) -> str:
    """The name; if it is too long, its beginning and a digest."""
    if len(part.encode()) <= MOST_BYTES:
        return part
    return f"{part[:40]}-{hashlib.sha256(part.encode()).hexdigest()[:16]}"
