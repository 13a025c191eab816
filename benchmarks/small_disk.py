"""Small file systems, to fill. For tests, too."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def small_file_system(folder: Path, size: int) -> Iterator[str | None]:
    """A file system in memory of so many bytes, mounted at a folder.

    The context gets None, or why this user may not mount one.
    """
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    mounted = subprocess.run(command, capture_output=True, text=True)
    if mounted.returncode:
        yield mounted.stderr.strip()
        return
    try:
        yield None
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(folder: Path) -> Path:
    """Leaves no free byte on the file system of a folder. Returns the file that takes them."""
    path = folder / "full"
    with path.open("wb", buffering=0) as file, suppress(OSError):  # no space left
        while True:
            file.write(bytes(4096))
    return path
