"""Atomic writes: even after a crash, a file is whole or absent."""

from __future__ import annotations

import errno
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

log = logging.getLogger(__name__)

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


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A temporary folder beside `path`. It becomes `path` at the end, or is removed on an error.

    Args:
        path: absent, or an empty folder.

    Raises:
        OSError: the folder cannot be made, or renamed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.absolute().parent))
    try:
        yield staging
        staging.chmod(0o755)  # mkdtemp makes folders that only their owner can read
        staging.replace(path)
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
