"""Rows in files that a later run goes on with."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from service.bulk.formats import Csv, FileFormat, JsonLines, Lines
from service.bulk.rows import Row
from service.bulk.sinks import FileSink, SinkError, StreamSink


def row(number: int, version: int = 1) -> Row:
    return Row(f"{number}.jpg", "net", version, {"width": 1, "height": 1, "predictions": []})


def write(path: Path, form: FileFormat, numbers: range, *, resume: bool = True) -> FileSink:
    sink = FileSink(path, form, resume=resume)
    for number in numbers:
        sink.write(row(number))
    sink.close()
    return sink


@pytest.fixture(params=["json", "csv"])
def form(request: pytest.FixtureRequest) -> FileFormat:
    return JsonLines() if request.param == "json" else Csv(2)


def test_a_stream_gets_every_row_at_once() -> None:
    stream = io.BytesIO()
    sink = StreamSink(stream, Csv(1))
    assert stream.getvalue() == Csv(1).header
    sink.write(row(1))
    assert stream.getvalue() == Csv(1).header + Csv(1).line(row(1))
    sink.close()
    assert StreamSink(io.BytesIO(), Lines()).done.rows == 0


def test_a_file_has_every_row_at_once(tmp_path: Path, form: FileFormat) -> None:
    sink = FileSink(tmp_path / "out", form, resume=False)
    sink.write(row(1))
    assert (tmp_path / "out").read_bytes() == form.header + form.line(row(1))
    sink.close()


def test_a_file_goes_on_after_its_last_complete_row(tmp_path: Path, form: FileFormat) -> None:
    whole = form.header + b"".join(form.line(row(number)) for number in range(4))
    for size in range(len(whole) + 1):
        path = tmp_path / "out"
        path.write_bytes(whole[:size])
        sink = FileSink(path, form, resume=True)
        for number in range(4):
            if not sink.done.take(f"{number}.jpg"):
                sink.write(row(number))
        sink.close()
        assert path.read_bytes() == whole, size


def test_a_file_that_is_there_is_not_touched(tmp_path: Path, form: FileFormat) -> None:
    (tmp_path / "out").write_bytes(b"precious")
    with pytest.raises(SinkError, match="is there already: go on with it by --resume, remove it, or give another"):
        FileSink(tmp_path / "out", form, resume=False)
    with pytest.raises(SinkError, match=r"cannot be continued: .*; give another file"):
        write(tmp_path / "out", form, range(0), resume=True)
    (tmp_path / "out").write_bytes(b"precious\n")
    with pytest.raises(SinkError, match=r"cannot be continued: .*; give another file"):
        FileSink(tmp_path / "out", form, resume=True)
    assert (tmp_path / "out").read_bytes() == b"precious\n"


def test_rows_of_another_version_do_not_go_on(tmp_path: Path, form: FileFormat) -> None:
    write(tmp_path / "out", form, range(2), resume=False)
    sink = FileSink(tmp_path / "out", form, resume=True)
    with pytest.raises(SinkError, match="holds rows of net@1, and net@2 would go on: give --model net@1, or another"):
        sink.write(row(2, version=2))
    sink.close()
    assert sink.done.rows == 2


def test_two_processes_do_not_write_the_same_file(tmp_path: Path, form: FileFormat) -> None:
    sink = FileSink(tmp_path / "out", form, resume=False)
    with pytest.raises(SinkError, match="is being written by another process"):
        FileSink(tmp_path / "out", form, resume=True)
    sink.close()
    FileSink(tmp_path / "out", form, resume=True).close()
