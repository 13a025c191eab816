"""Atomic writes: even after a crash, a file is whole or absent."""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

log = logging.getLogger(__name__)

DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
CANNOT_FLUSH = {errno.EINVAL, errno.ENOTSUP, errno.ENOSYS, errno.EACCES, errno.EBADF}


def flush(path: Path) -> None:
    """Forces the content of a file, or the entries of a folder, to disk.

    Folders on CIFS, some FUSE file systems and Windows cannot be opened or flushed, and are not. Files are whole even
    there, but the newest may be missing after a power cut.

    Raises:
        OSError: the disk fails.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        if error.errno not in CANNOT_FLUSH or not path.exists():
            raise
        log.debug("%s cannot be flushed: %s", path, error)


def move_into_place(temporary: Path, path: Path) -> None:
    """Renames a finished file within its folder, and forces its content and its new name to disk.

    Raises:
        OSError: the disk fails, or the file cannot be renamed.
    """
    flush(temporary)
    temporary.replace(path)
    flush(path.parent)


def flush_readable(folder: Path) -> None:
    """Forces a folder and its files to disk, readable for every user: the service runs as another one.

    Raises:
        OSError: the disk fails, or a mode cannot be set.
    """
    for path in (*folder.iterdir(), folder):
        mode = 0o755 if path.is_dir() else 0o644  # mkdtemp's folder is private
        if stat.S_IMODE(path.stat().st_mode) != mode:  # a hard link's file may belong to another user
            path.chmod(mode)
        flush(path)


def link(path: Path, to: Path) -> None:
    """A hard link, which takes no disk space; a copy if the file system has no hard links. Raises OSError."""
    try:
        os.link(path, to)
    except OSError:
        shutil.copyfile(path, to)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """One process at a time; the others wait. On file systems without locks, nothing is locked.

    Raises:
        FileNotFoundError: there is no such folder, also if the process that held it has removed it.
    """
    while True:
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                log.info("waiting for another process that works in %s", folder)
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            except OSError as error:
                log.debug("%s cannot be locked: %s", folder, error)
            # A folder that was removed meanwhile keeps its lock. Another process may hold the one made in its place.
            if os.path.samestat(os.fstat(descriptor), folder.stat()):
                yield
                return
        finally:
            os.close(descriptor)


def remove_folder(folder: Path) -> None:
    """Renames a version to a name that no reader takes for one, then removes it: nobody sees half of it.

    Raises:
        OSError: it cannot be renamed or removed.
    """
    hidden = Path(tempfile.mkdtemp(prefix=".removed-", dir=folder.parent))
    try:
        folder.rename(hidden / folder.name)
        flush(folder.parent)
    finally:
        shutil.rmtree(hidden)


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A temporary folder beside `path`. It becomes `path` at the end, flushed to disk, or is removed on an error.

    Args:
        path: absent, or an empty folder.

    Raises:
        OSError: the folder cannot be made or renamed, or the disk fails.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.absolute().parent))
    try:
        yield staging
        staging.chmod(0o755)  # mkdtemp makes folders that only their owner can read
        for inside in (*staging.rglob("*"), staging):
            flush(inside)
        staging.replace(path)
        flush(path.absolute().parent)
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside `path`. The file written there replaces `path` at the end, or is removed on an error.

    Raises:
        OSError: as `move_into_place`.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        yield temporary
        move_into_place(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_atomically(path: Path, content: bytes | memoryview) -> None:
    """Writes a file that nobody ever sees half-written.

    Raises:
        OSError: it cannot be written; what was there before still is.
    """
    with replacing(path) as temporary:
        temporary.write_bytes(content)
