"""Folders that the processes of one test run build once and share, and copies of them that a test may change."""

from __future__ import annotations

import fcntl
import os
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

WRITE = stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH


def run_folder(factory: pytest.TempPathFactory) -> Path:
    """The temporary folder of this test run, the same in every process of pytest-xdist."""
    own = factory.getbasetemp()
    return own.parent if "PYTEST_XDIST_WORKER" in os.environ else own


@contextmanager
def shared_folder(factory: pytest.TempPathFactory, name: str, build: Callable[[Path], object]) -> Iterator[Path]:
    """A folder that `build` fills in the first process that needs it; the others wait for it.

    It is a folder of this test run, or of all runs that have the same SHARED_TEST_FOLDER in their environment.

    Its files are read-only. Folders are not, or pytest could not remove them; and modes do not stop root. So the end of
    the context fails if anything has changed.
    """
    folder = Path(os.environ.get("SHARED_TEST_FOLDER") or run_folder(factory)) / name
    with folder.with_name(f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            if not folder.exists():
                staging = folder.with_name(f"{name}.staging")
                shutil.rmtree(staging, ignore_errors=True)  # of a process whose build failed
                staging.mkdir()
                build(staging)
                for path in staging.rglob("*"):
                    if path.is_file():
                        path.chmod(path.stat().st_mode & ~WRITE)
                staging.rename(folder)
        finally:
            fcntl.flock(lock, fcntl.LOCK_UN)  # closing does not unlock it if a child process has inherited it
    before = _state(folder)
    yield folder
    assert _state(folder) == before, f"a test has written into {folder}, which all tests share: copy it first"


def copied(folder: Path, to: Path) -> Path:
    """A copy of a shared folder that a test may change; makes the folders above it."""
    shutil.copytree(folder, to)
    for path in to.rglob("*"):
        path.chmod(path.stat().st_mode | stat.S_IWUSR)
    return to


def _state(folder: Path) -> dict[Path, tuple[int, int]]:
    """Size and time of change of every file and folder."""
    stats = {path: path.stat() for path in (folder, *folder.rglob("*"))}
    return {path: (found.st_size, found.st_mtime_ns) for path, found in stats.items()}


def whole(root: Path) -> list[str]:
    """The versions of a model folder, `name@1`, once each is found to be what its card says."""
    from service.runtime.model_folder import model_versions, read_card, verify_digests

    versions = list(model_versions(root))
    for version in versions:
        verify_digests(version.path, read_card(version.path))
    return [f"{version.name}@{version.version}" for version in versions]
