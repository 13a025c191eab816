"""Rows as a Parquet file, whenever the process is killed."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import BinaryIO

import pytest

from service.bulk import parquet, sinks
from service.bulk.parquet import ParquetSink
from service.bulk.rows import Problem, Row
from service.bulk.sinks import SinkError

pq = pytest.importorskip("pyarrow.parquet", reason="the extra `parquet` is not installed")

CAT = {"width": 4, "height": 3, "predictions": [{"class_id": 3, "label": "cat", "probability": 0.5}]}


def row(number: int, version: int = 1) -> Row:
    return Row(f"{number}.jpg", "net", version, CAT)


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where to write, in parts of two rows."""
    monkeypatch.setattr(parquet, "PART_ROWS", 2)
    monkeypatch.setattr(parquet, "PART_S", 1e9)
    return tmp_path / "out.parquet"


def files(path: Path) -> list[str]:
    return [found["file"] for found in pq.read_table(path).to_pylist()]


def killed(path: Path, numbers: range, *, resume: bool = True) -> None:
    """A run that gets no chance to close its sink."""
    sink = ParquetSink(path, resume=resume)
    for number in numbers:
        if not sink.done.take(f"{number}.jpg"):
            sink.write(row(number))
    sink._lock.close()  # as the end of its process does


def finished(path: Path, numbers: range) -> None:
    sink = ParquetSink(path, resume=True)
    for number in numbers:
        if not sink.done.take(f"{number}.jpg"):
            sink.write(row(number))
    sink.close()


def test_columns(path: Path) -> None:
    sink = ParquetSink(path, resume=False)
    sink.write(row(1))
    sink.write(Row("b.jpg", "net", 1, Problem("not-an-image", "Not an image", "It is text.", "Send one.").entry()))
    sink.close()
    first, second = pq.read_table(path).to_pylist()
    assert first == {
        "file": "1.jpg",
        "model": "net",
        "version": 1,
        "width": 4,
        "height": 3,
        "problem": None,
        "detail": None,
        "answer": ["cat"],
        "class_ids": [3],
        "labels": ["cat"],
        "probabilities": [0.5],
    }
    assert (second["problem"], second["detail"], second["answer"]) == ("not-an-image", "It is text.", [])
    assert [each.name for each in path.parent.iterdir()] == ["out.parquet"]


def test_a_killed_run_loses_only_its_last_part(path: Path) -> None:
    killed(path, range(5), resume=False)
    assert not path.exists()
    sink = ParquetSink(path, resume=True)
    assert sink.done.rows == 4
    sink._lock.close()
    killed(path, range(7))
    finished(path, range(9))
    assert files(path) == [f"{number}.jpg" for number in range(9)]


def test_a_finished_file_goes_on(path: Path) -> None:
    finished(path, range(3))
    finished(path, range(6))
    assert files(path) == [f"{number}.jpg" for number in range(6)]


def test_a_run_that_is_killed_between_merging_and_tidying_leaves_no_row_twice(path: Path, tmp_path: Path) -> None:
    killed(path, range(4), resume=False)
    parts = path.with_name("out.parquet.parts")
    shutil.copytree(parts, tmp_path / "copy")
    finished(path, range(4))
    shutil.copytree(tmp_path / "copy", parts)
    finished(path, range(5))
    assert files(path) == [f"{number}.jpg" for number in range(5)]


def test_what_was_being_written_is_removed(path: Path) -> None:
    killed(path, range(4), resume=False)
    (path.with_name("out.parquet.parts") / "00000003.new").write_bytes(b"half")
    path.with_name("out.parquet.new").write_bytes(b"half")
    finished(path, range(5))
    assert files(path) == [f"{number}.jpg" for number in range(5)]
    assert [each.name for each in path.parent.iterdir()] == ["out.parquet"]


def test_a_part_is_written_after_some_time_however_few_rows_it_has(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet, "PART_S", 0)
    killed(path, range(1), resume=False)
    sink = ParquetSink(path, resume=True)
    assert sink.done.rows == 1
    sink.close()


def test_rows_are_merged_into_groups(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet, "GROUP_ROWS", 4)
    finished(path, range(10))
    metadata = pq.read_metadata(path)
    assert [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)] == [4, 4, 2]


def test_files_that_are_there_are_not_touched(path: Path) -> None:
    killed(path, range(4), resume=False)
    with pytest.raises(SinkError, match=r"out.parquet.parts is there already: go on with it by --resume"):
        ParquetSink(path, resume=False)
    finished(path, range(4))
    with pytest.raises(SinkError, match=r"out.parquet is there already: go on with it by --resume"):
        ParquetSink(path, resume=False)
    path.write_bytes(b"precious")
    with pytest.raises(SinkError, match="cannot be continued"):
        ParquetSink(path, resume=True)
    assert path.read_bytes() == b"precious"


def test_a_run_that_begins_while_another_ends_is_refused(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = ParquetSink(path, resume=False)

    def ending(file: BinaryIO, path: Path) -> None:
        monkeypatch.undo()
        first.close()  # removes the lock, which the second has opened
        sinks.lock(file, path)

    monkeypatch.setattr(parquet, "lock", ending)
    with pytest.raises(SinkError, match="is being written by another process"):
        ParquetSink(path, resume=True)
    ParquetSink(path, resume=True).close()


def test_rows_of_another_version_do_not_go_on(path: Path) -> None:
    finished(path, range(3))
    sink = ParquetSink(path, resume=True)
    with pytest.raises(SinkError, match="holds rows of net@1, and net@2 would go on"):
        sink.write(row(3, version=2))
    with pytest.raises(SinkError, match="is being written by another process"):
        ParquetSink(path, resume=True)
    sink.close()
    assert files(path) == ["0.jpg", "1.jpg", "2.jpg"]
