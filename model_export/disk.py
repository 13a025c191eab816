"""Writing so that, after a crash too, a file or folder is whole or absent."""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

log = logging.getLogger(__name__)

CANNOT_FLUSH = {errno.EINVAL, errno.ENOTSUP, errno.ENOSYS, errno.EACCES, errno.EBADF}


def flush(path: Path) -> None:
    """Forces the content of a file, or the entries of a folder, to disk.

    CIFS, some FUSE file systems and Windows cannot open or flush folders: there it is done without. Files are whole all
    the same; after a power cut the newest may be missing.
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
    """Renames a finished file to another name in the same folder."""
    flush(temporary)
    temporary.replace(path)
    flush(path.parent)


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """A temporary path beside `path`; what is written there becomes `path` at the end, or is removed on an error."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        yield temporary
        move_into_place(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_whole(path: Path, content: bytes | memoryview) -> None:
    """Writes a file that is never seen half-written.

    Raises:
        OSError: it cannot be written; what was there before still is.
    """
    with written_whole(path) as temporary:
        temporary.write_bytes(content)
