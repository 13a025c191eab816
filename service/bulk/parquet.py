"""Rows as a Parquet file (https://parquet.apache.org/docs/file-format/), with the extra `parquet`.

A Parquet file cannot be appended to: its table of contents stands at the end. So rows go to small files in
`FILE.parts/` first. When the run ends, they are merged into FILE, and the parts removed. FILE knows the number of the
last part that it has taken in: a process that is killed in between leaves no row twice.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from service.bulk.done import Done
from service.bulk.formats import Written
from service.bulk.rows import Row
from service.bulk.sinks import Seen, SinkError, exists, lock

if TYPE_CHECKING:
    import pyarrow

PART_ROWS = 10_000
PART_S = 10.0  # seconds after which a part is written, however few rows it has: a killed process loses those
GROUP_ROWS = 65_536  # of a row group of FILE
TAKEN_IN = b"resnet.parts"  # key of FILE's metadata
BATCH_ROWS = 8192  # that are read at a time


class ParquetSink:
    """Writes rows to a Parquet file. A `Sink`."""

    def __init__(self, path: Path, *, resume: bool) -> None:
        """
        Args:
            resume: go on with the file, or with what an interrupted run has left of it.

        Raises:
            SinkError: there is such a file and it shall not be continued, or cannot be.
        """
        try:
            import pyarrow.parquet  # noqa: F401 (missing here rather than after the first rows)
        except ModuleNotFoundError:
            raise SinkError(
                "pyarrow, which writes Parquet, is not installed: run pip install 'resnet-service[parquet]'"
            ) from None
        self._path = path
        self._parts = path.with_name(f"{path.name}.parts")
        if not resume and (path.exists() or self._parts.exists()):
            raise exists(path if path.exists() else self._parts)
        self._parts.mkdir(exist_ok=True)
        self._lock = (self._parts / "lock").open("wb")
        try:
            lock(self._lock, path)
            self._number = self._clean()
            self._seen = Seen(path)
            self.done = Done(self._seen.files(self._written()))
        except BaseException:
            self._lock.close()
            raise
        self._rows: list[Row] = []
        self._since = time.monotonic()

    def write(self, row: Row) -> None:
        self._seen.check(row)
        if not self._rows:
            self._since = time.monotonic()
        self._rows.append(row)
        if len(self._rows) >= PART_ROWS or time.monotonic() >= self._since + PART_S:
            self._write_part()

    def close(self) -> None:
        """Merges everything into the file."""
        import pyarrow.parquet

        with self._lock:
            if self._rows:
                self._write_part()
            draft = self._path.with_name(f"{self._path.name}.new")
            schema = _schema().with_metadata({TAKEN_IN: str(self._number)})
            with pyarrow.parquet.ParquetWriter(draft, schema) as writer:
                gathered: list[pyarrow.RecordBatch] = []
                for batch in self._batches():
                    gathered.append(batch)
                    if sum(part.num_rows for part in gathered) >= GROUP_ROWS:
                        writer.write_table(pyarrow.Table.from_batches(gathered))
                        gathered.clear()
                if gathered:
                    writer.write_table(pyarrow.Table.from_batches(gathered))
            _put(draft, self._path)
            for part in self._parts.iterdir():
                part.unlink()
            self._parts.rmdir()

    def _write_part(self) -> None:
        import pyarrow.parquet

        self._number += 1
        part = self._parts / f"{self._number:08d}.parquet"
        draft = part.with_suffix(".new")
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(list(map(_record, self._rows)), _schema()), draft)
        _put(draft, part)
        self._rows.clear()

    def _clean(self) -> int:
        """Removes what is incomplete and what FILE holds already. Returns the number of the last part."""
        import pyarrow.parquet

        taken_in = 0
        if self._path.exists():
            try:
                metadata = pyarrow.parquet.read_schema(self._path).metadata or {}
                taken_in = int(metadata[TAKEN_IN])
            except (pyarrow.ArrowInvalid, KeyError):
                raise SinkError(
                    f"{self._path} cannot be continued: it is not a file of `classify --parquet`; give another file"
                ) from None
        for part in sorted(self._parts.iterdir()):
            if part.suffix == ".new" or (part.suffix == ".parquet" and int(part.stem) <= taken_in):
                part.unlink()
        return max([taken_in, *(int(part.stem) for part in self._parts.glob("*.parquet"))])

    def _batches(self, columns: list[str] | None = None) -> Iterator[pyarrow.RecordBatch]:
        """Everything that is written: of FILE, then of the parts."""
        import pyarrow.parquet

        for path in [*([self._path] if self._path.exists() else ()), *sorted(self._parts.glob("*.parquet"))]:
            with pyarrow.parquet.ParquetFile(path) as file:
                for batch in file.iter_batches(BATCH_ROWS, columns=columns):
                    yield batch.replace_schema_metadata(None)

    def _written(self) -> Iterator[Written]:
        for batch in self._batches(["file", "model", "version"]):
            for found in batch.to_pylist():
                yield Written(found["file"], found["model"], found["version"], 0)


def _schema() -> pyarrow.Schema:
    import pyarrow

    text, whole = pyarrow.string(), pyarrow.int32()
    return pyarrow.schema(
        {
            "file": text,
            "model": text,
            "version": whole,
            "width": whole,
            "height": whole,
            "problem": text,
            "detail": text,
            "answer": pyarrow.list_(text),
            "class_ids": pyarrow.list_(whole),
            "labels": pyarrow.list_(text),
            "probabilities": pyarrow.list_(pyarrow.float32()),
        }
    )


def _record(row: Row) -> dict[str, Any]:
    problem = row.problem
    best = row.entry.get("predictions", ())
    return {
        "file": row.file,
        "model": row.model,
        "version": row.version,
        "width": row.entry.get("width"),
        "height": row.entry.get("height"),
        "problem": problem and problem.slug,
        "detail": problem and problem.detail,
        "answer": row.answer,
        "class_ids": [one["class_id"] for one in best],
        "labels": [one["label"] for one in best],
        "probabilities": [one["probability"] for one in best],
    }


def _put(draft: Path, path: Path) -> None:
    """Moves a file to its place once all of it is on the disk."""
    with draft.open("rb") as file:
        os.fsync(file.fileno())
    draft.replace(path)
