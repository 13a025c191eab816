"""Rows as text: a line for people, JSON Lines (https://jsonlines.org) and CSV (RFC 4180)."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator
from typing import NamedTuple, Protocol

from service.bulk.rows import Row


class BrokenFile(Exception):
    """A file does not hold rows of this format; the message says where."""


class Written(NamedTuple):
    """A row that a file holds already.

    Attributes:
        end: the position of the first byte behind it.
    """

    file: str
    model: str
    version: int
    end: int


class Format(Protocol):
    """How rows are written, and found again."""

    header: bytes

    def line(self, row: Row) -> bytes:
        """A row, with the end of its line."""


class FileFormat(Format, Protocol):
    """A format for programs, which a file can be continued in."""

    def written(self, file: Iterable[bytes]) -> Iterator[Written]:
        """The complete rows of a file, by its lines. A row that is cut off at the end is left out.

        Raises:
            BrokenFile
        """


class Lines:
    """For people: `photo.jpg: tabby 0.812, tiger cat 0.104`."""

    header = b""

    def line(self, row: Row) -> bytes:
        return f"{_printable(row.file)}: {_told(row)}\n".encode(errors="backslashreplace")


def _told(row: Row) -> str:
    if problem := row.problem:
        return _printable(f"error: {problem.title}. {problem.detail.removesuffix('.')}. {problem.remedy}")
    predictions = row.entry["labels"] if "labels" in row.entry else row.entry["predictions"]
    told = ", ".join(f"{_printable(one['label'])} {one['probability']:.3f}" for one in predictions)
    return f"rejected ({told})" if row.entry.get("rejected") else told or "no class"


def _printable(text: str) -> str:
    """Without characters that would move the cursor of a terminal."""
    return "".join(each if each.isprintable() else ascii(each)[1:-1] for each in text)


class JsonLines:
    """An object for each row: the entry of `/classify` with the file, the model and its version."""

    BEGIN = b'{"file":'  # of every line
    header = b""

    def line(self, row: Row) -> bytes:
        found = {"file": row.file, "model": row.model, "version": row.version, **row.entry}
        return json.dumps(found, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"

    def written(self, file: Iterable[bytes]) -> Iterator[Written]:
        end = 0
        for number, line in enumerate(file, 1):
            end += len(line)
            if not line.endswith(b"\n") and self.BEGIN.startswith(line[: len(self.BEGIN)]):
                return
            try:
                found = json.loads(line)
                written = Written(str(found["file"]), str(found["model"]), int(found["version"]), end)
            except (ValueError, KeyError, TypeError):
                raise BrokenFile(f"line {number} is not a row of `classify --json`") from None
            yield written


class Csv:
    """A record for each row, with the best classes in columns of their own."""

    FIRST = ("file", "model", "version", "width", "height", "problem", "detail", "answer")

    def __init__(self, top_k: int) -> None:
        """
        Args:
            top_k: how many classes have columns.
        """
        self._top_k = top_k
        of_class = [f"{name}_{place}" for place in range(1, top_k + 1) for name in ("class_id", "label", "probability")]
        self._columns = [*self.FIRST, *of_class]
        self.header = _record(self._columns)

    def line(self, row: Row) -> bytes:
        problem = row.problem
        best = row.entry.get("predictions", ())
        cells = [
            *(row.file, row.model, row.version, row.entry.get("width", ""), row.entry.get("height", "")),
            *((problem.slug, problem.detail) if problem else ("", "")),
            "|".join(row.answer),
            *(value for one in best for value in (one["class_id"], one["label"], one["probability"])),
        ]
        return _record([*cells, *[""] * (len(self._columns) - len(cells))])

    def written(self, file: Iterable[bytes]) -> Iterator[Written]:
        read, last = 0, b"\n"

        def lines() -> Iterator[str]:
            nonlocal read, last
            for line in file:
                read, last = read + len(line), line
                yield line.decode(errors="replace")

        records = csv.reader(lines(), strict=True)
        try:
            if next(records, self._columns) != self._columns:
                if read < len(self.header) and self.header.startswith(last):
                    return  # the header itself was cut off
                raise BrokenFile(f"its first line is not {self.header.decode().strip()} (it depends on --top-k)")
            for record in records:
                if not last.endswith(b"\n"):
                    return
                if len(record) != len(self._columns):
                    raise BrokenFile(f"line {records.line_num} has {len(record)} columns, not {len(self._columns)}")
                yield Written(record[0], record[1], int(record[2]), read)
        except csv.Error:
            if not last.endswith(b"\n") or next(iter(file), None) is None:
                return  # a record that was cut off within quotes
            raise BrokenFile(f"line {records.line_num} is not CSV") from None
        except ValueError:
            raise BrokenFile(f"line {records.line_num} is not a row of `classify --csv`") from None


def _record(cells: Iterable[object]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(cells)
    return text.getvalue().encode(errors="backslashreplace")
