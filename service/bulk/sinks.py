"""Where rows go: standard output, or a file that a later run can go on with."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, Protocol

from service.bulk.done import Done
from service.bulk.formats import BrokenFile, FileFormat, Format, Written
from service.bulk.rows import Row

SYNC_EVERY_S = 1.0  # after a power failure, so much is classified again


class SinkError(Exception):
    """Rows cannot be written there; the message names the remedy."""


class Sink(Protocol):
    """Takes rows. A context manager: leaving it writes what is left.

    Attributes:
        done: the rows that were there before.
    """

    done: Done

    def write(self, row: Row) -> None:
        """Raises SinkError or OSError."""

    def close(self) -> None: ...


class StreamSink:
    """Writes each row to a stream at once. A `Sink`."""

    def __init__(self, stream: BinaryIO, form: Format) -> None:
        self.done = Done(())
        self._stream = stream
        self._form = form
        self._stream.write(form.header)

    def write(self, row: Row) -> None:
        self._stream.write(self._form.line(row))
        self._stream.flush()

    def close(self) -> None:
        self._stream.flush()


class FileSink:
    """Appends each row to a file at once: a killed process leaves every row that it has written. A `Sink`.

    What a file holds at its end that is no complete row is cut off when a run goes on with it.
    """

    def __init__(self, path: Path, form: FileFormat, *, resume: bool) -> None:
        """
        Args:
            resume: go on with the file, if it is there.

        Raises:
            SinkError: the file is there and shall not be continued, or cannot be.
        """
        self._form = form
        self._seen = Seen(path)
        try:
            self._file = path.open("a+b" if resume else "x+b")
        except FileExistsError:
            raise exists(path) from None
        try:
            lock(self._file, path)
            self._file.seek(0)
            try:
                self.done = Done(self._seen.files(form.written(self._file)))
            except BrokenFile as error:
                raise SinkError(f"{path} cannot be continued: {error}; give another file") from None
            self._file.truncate(self._seen.end)
            if not self._seen.end:
                self._file.write(form.header)
                self._file.flush()
        except BaseException:
            self._file.close()
            raise
        self._synced = time.monotonic()

    def write(self, row: Row) -> None:
        self._seen.check(row)
        self._file.write(self._form.line(row))
        self._file.flush()
        if time.monotonic() > self._synced + SYNC_EVERY_S:
            os.fsync(self._file.fileno())
            self._synced = time.monotonic()

    def close(self) -> None:
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()


class Seen:
    """What a continued file holds, as far as it matters for the rows to come.

    Attributes:
        end: where its last complete row ends; 0 if there is none.
    """

    def __init__(self, path: Path) -> None:
        self.end = 0
        self._path = path
        self._of: tuple[str, int] | None = None  # model and version

    def files(self, rows: Iterable[Written]) -> Iterator[str]:
        """The files of the rows, in passing."""
        for row in rows:
            self.end = row.end
            self._of = (row.model, row.version)
            yield row.file

    def check(self, row: Row) -> None:
        """Raises SinkError if this row is from another model than those before: they could not be compared."""
        if self._of and self._of != (row.model, row.version):
            model, version = self._of
            raise SinkError(
                f"{self._path} holds rows of {model}@{version}, and {row.model}@{row.version} would go on: give "
                f"--model {model}@{version}, or another file"
            )
        self._of = (row.model, row.version)


def lock(file: BinaryIO, path: Path) -> None:
    """Keeps other processes from writing the same rows. Raises SinkError if one does already."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        ours = os.fstat(file.fileno()).st_nlink > 0  # or the process that held it has ended meanwhile, and removed it
    except BlockingIOError:
        ours = False
    if not ours:
        raise SinkError(f"{path} is being written by another process: wait for its end, or give another file")


def exists(path: Path) -> SinkError:
    return SinkError(f"{path} is there already: go on with it by --resume, remove it, or give another file")
