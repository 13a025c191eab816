"""Small file systems for tests."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from benchmarks.small_disk import small_file_system


@contextmanager
def small_disk_at(folder: Path, size: int) -> Iterator[Path]:
    """A file system of so many bytes at a new folder. Skips the test where this user may not mount one."""
    folder.mkdir()
    with small_file_system(folder, size) as refused:
        if refused is not None:
            pytest.skip(f"this user may not mount a file system: {refused}")
        yield folder
