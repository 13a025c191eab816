"""Where images are that other machines read: files, objects of S3 buckets, and rows of Parquet files."""

from __future__ import annotations

import functools
import itertools
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow
import pyarrow.fs
import pyarrow.parquet

from service.bulk.done import Done
from service.bulk.inputs import SUFFIXES, File, InputError, Inputs, Nothing, shown, unreadable
from service.bulk.rows import Problem
from service.bulk.stream import Source, Unreadable
from service.upload_faults import ImageTooLarge

S3 = "s3://"
PARQUET = ".parquet"
IN_A_BLOCK = 128  # files of one task
DAMAGE = (OSError, pyarrow.ArrowException, UnicodeDecodeError)  # what reading a damaged Parquet file raises


class Place(NamedTuple):
    """One image.

    Attributes:
        name: names its row.
        path: of the file, absolute: workers have other working folders. Or the URL of the object.
        row: of a Parquet file, counted from 0; None for a file that is the image.
        problem: why there is no image, as JSON of `Problem.entry`.
    """

    name: str
    path: str
    row: int | None = None
    problem: str | None = None


def blocks(inputs: Inputs, urls: Sequence[str], column: str | None, done: Done) -> Iterator[pyarrow.Table]:
    """The places that have no row yet, in blocks that one task reads: some files, or a row group of a Parquet file.

    Args:
        inputs: the arguments that are paths.
        urls: those that are `s3://BUCKET/PREFIX`.
        column: of Parquet files: with images, as bytes, or with their paths or URLs.

    Raises:
        InputError: a Parquet file has no such column.
    """
    files: list[Place] = []
    for place in itertools.chain(map(_place, inputs.sources()), *map(_objects, urls)):
        if place.problem is not None or not place.path.lower().endswith(PARQUET):
            groups: Iterable[tuple[bool, Iterable[Place]]] = [(False, [place])]
        else:
            groups = _of_parquet(place, column)
        for apart, group in groups:
            left = [each for each in group if not done.take(each.name)]
            if apart and left:
                yield _table(left)
            elif left:
                files += left
        while len(files) >= IN_A_BLOCK:
            yield _table(files[:IN_A_BLOCK])
            del files[:IN_A_BLOCK]
    if files:
        yield _table(files)


def _place(source: Source) -> Place:
    if isinstance(source, File):
        return Place(source.name, str(Path(source.path).absolute()))
    try:
        source.read()
    except Unreadable as error:
        return Place(source.name, "", problem=json.dumps(error.problem.entry()))
    raise InputError("with --ray, - stands for a list of paths: give the image as a file")


class Object:
    """An image in an S3 bucket, by its URL. A `Source`.

    Region, endpoint and credentials are those of the AWS programs: `AWS_` variables, files, or the machine's role.
    """

    def __init__(self, url: str, max_bytes: int) -> None:
        self.name = url
        self._max_bytes = max_bytes

    def read(self) -> bytes:
        try:
            with _bucket().open_input_file(self.name.removeprefix(S3)) as file:
                if file.size() > self._max_bytes:
                    raise Unreadable(Problem.of(ImageTooLarge(bytes=file.size(), max_bytes=self._max_bytes)))
                return bytes(file.readall())
        except OSError as error:
            raise Unreadable(unreadable(self.name, error)) from None


@functools.cache
def _bucket() -> pyarrow.fs.S3FileSystem:
    # pyarrow heeds all other variables of the AWS programs by itself.
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    return pyarrow.fs.S3FileSystem(endpoint_override=endpoint)


def _objects(url: str) -> Iterator[Place]:
    """The images and Parquet files below a prefix, by their names, or the one object of this name."""
    found = False
    try:
        selector = pyarrow.fs.FileSelector(url.removeprefix(S3), recursive=True, allow_not_found=True)
        listed = _bucket().get_file_info(selector) or [_bucket().get_file_info(selector.base_dir)]
    except OSError as error:
        yield _place(Nothing(url, unreadable(url, error)))
        return
    for info in sorted(listed, key=lambda info: info.path):
        if info.is_file and info.path.lower().endswith((*SUFFIXES, PARQUET)):
            found = True
            yield Place(f"{S3}{info.path}", f"{S3}{info.path}")
    if not found:
        detail = f"Nothing below {url} ends in {', '.join((*SUFFIXES, PARQUET))}."
        remedy = "Check the bucket and the prefix, which ends at a slash of the objects' names."
        yield _place(Nothing(url, Problem("no-image-found", "The prefix holds no image", detail, remedy)))


def _of_parquet(place: Place, column: str | None) -> Iterator[tuple[bool, Iterable[Place]]]:
    """The images of a Parquet file: for each row group, whether they are read together, and which they are."""
    try:
        with _parquet(place.path) as file:
            image = _column(place.name, file.schema_arrow, column)
            first = 0
            for group in range(file.num_row_groups):
                rows = range(first, first + file.metadata.row_group(group).num_rows)
                if _is_text(file.schema_arrow.field(image).type):
                    yield False, _paths(place, file, image, group, rows)
                else:
                    yield True, [Place(f"{place.name}#{row}", place.path, row) for row in rows]
                first = rows.stop
    except DAMAGE as error:
        yield False, [place._replace(problem=_damaged(place.name, error))]


def _paths(place: Place, file: pyarrow.parquet.ParquetFile, column: str, group: int, rows: range) -> list[Place]:
    """The images that a row group names; if it is damaged, a problem for each of its rows."""
    try:
        paths = file.read_row_group(group, columns=[column])[column].to_pylist()
    except DAMAGE as error:
        names = [f"{place.name}#{row}" for row in rows]
        return [Place(name, place.path, problem=_damaged(name, error)) for name in names]
    return [_named(place, row, path) for row, path in zip(rows, paths, strict=True)]


def _named(place: Place, row: int, path: str | None) -> Place:
    """The image that a row of a Parquet file names."""
    if not path:
        return Place(f"{place.name}#{row}", place.path, problem=_no_image(place, row))
    return Place(shown(path), path if path.startswith(S3) else str(Path(path).absolute()))


def _no_image(place: Place, row: int) -> str:
    detail = f"Row {row} of {place.name} is empty in the column of images."
    problem = Problem("empty-image", "The row holds no image", detail, "Fill the row, or leave it out of the file.")
    return json.dumps(problem.entry())


def _damaged(name: str, error: Exception) -> str:
    """The problem of what cannot be read from a Parquet file."""
    if isinstance(error, OSError) and error.errno is not None:
        return json.dumps(unreadable(name, error).entry())
    remedy = "Look whether other programs can read the file; if they cannot, write it again."
    problem = Problem("file-not-readable", "The file cannot be read", f"{name} cannot be read: {error}.", remedy)
    return json.dumps(problem.entry())


def _column(name: str, schema: pyarrow.Schema, wanted: str | None) -> str:
    """The column with images. Raises InputError."""
    images = [field.name for field in schema if _is_bytes(field.type)]
    if wanted is None and len(images) == 1:
        return str(images[0])
    if wanted is not None and wanted in schema.names:
        kind = schema.field(wanted).type
        if _is_bytes(kind) or _is_text(kind):
            return wanted
    fault = f"has no column {wanted} of bytes or text" if wanted else f"has {len(images)} columns of bytes"
    raise InputError(f"{name} {fault}: name the column with the images by --column: {', '.join(schema.names)}")


def _is_bytes(kind: Any) -> bool:
    """Whether values are bytes, or structures with `bytes`, as Hugging Face's data sets write images."""
    if pyarrow.types.is_struct(kind):
        place = kind.get_field_index("bytes")
        return place >= 0 and _is_bytes(kind.field(place).type)
    return bool(pyarrow.types.is_binary(kind) or pyarrow.types.is_large_binary(kind))


def _is_text(kind: Any) -> bool:
    return bool(pyarrow.types.is_string(kind) or pyarrow.types.is_large_string(kind))


def _parquet(path: str) -> pyarrow.parquet.ParquetFile:
    if path.startswith(S3):
        return pyarrow.parquet.ParquetFile(path.removeprefix(S3), filesystem=_bucket())
    return pyarrow.parquet.ParquetFile(path)


SCHEMA = pyarrow.schema(
    {"name": pyarrow.string(), "path": pyarrow.binary(), "row": pyarrow.int64(), "problem": pyarrow.string()}
)


def _table(places: Sequence[Place]) -> pyarrow.Table:
    """Paths as bytes: names of files need not be text."""
    listed = [{**place._asdict(), "path": place.path.encode(errors="surrogateescape")} for place in places]
    return pyarrow.Table.from_pylist(listed, SCHEMA)


def sources(block: pyarrow.Table, column: str | None, max_bytes: int) -> Iterator[Source]:
    """The images of a block, on the machine that decodes them."""
    places = [Place(**{**found, "path": found["path"].decode(errors="surrogateescape")}) for found in block.to_pylist()]
    if places[0].row is not None:
        yield from _rows(places, column, max_bytes)
        return
    for place in places:
        if place.problem is not None:
            yield Known(place.name, place.problem)
        elif place.path.startswith(S3):
            yield Object(place.path, max_bytes)
        else:
            yield File(place.path, max_bytes, place.name)


class Known(NamedTuple):
    """A place whose problem is known already. A `Source`."""

    name: str
    entry: str

    def read(self) -> bytes:
        error = json.loads(self.entry)["error"]
        raise Unreadable(
            Problem(str(error["type"]).rpartition("/")[2], error["title"], error["detail"], error["remedy"])
        )


class Cell(NamedTuple):
    """An image in a row of a Parquet file. A `Source`."""

    name: str
    data: bytes
    max_bytes: int

    def read(self) -> bytes:
        if len(self.data) > self.max_bytes:
            raise Unreadable(Problem.of(ImageTooLarge(bytes=len(self.data), max_bytes=self.max_bytes)))
        return self.data


def _rows(places: Sequence[Place], column: str | None, max_bytes: int) -> Iterator[Source]:
    """Reads a row group a few rows at a time. If it is damaged, the rows that are left have a problem."""
    wanted = {place.row: place for place in places if place.row is not None}
    error: Exception = OSError("it has fewer rows than at the beginning of the run")
    try:
        for row, value in _cells(places[0].path, column, min(wanted)):
            if place := wanted.pop(row, None):
                data = value["bytes"] if isinstance(value, dict) else value
                yield Cell(place.name, data, max_bytes) if data else Known(place.name, _no_image(place, row))
    except DAMAGE as damage:
        error = damage
    for place in wanted.values():
        yield Known(place.name, _damaged(place.name, error))


def _cells(path: str, column: str | None, wanted: int) -> Iterator[tuple[int, Any]]:
    """The numbers and values of all rows in the row group that holds the wanted one."""
    with _parquet(path) as file:
        image = _column(path, file.schema_arrow, column)
        first = 0
        for group in range(file.num_row_groups):
            count = file.metadata.row_group(group).num_rows
            if wanted < first + count:
                cells = itertools.chain.from_iterable(
                    batch.column(0) for batch in file.iter_batches(IN_A_BLOCK, row_groups=[group], columns=[image])
                )
                yield from ((row, cell.as_py()) for row, cell in enumerate(cells, first))
                return
            first += count
