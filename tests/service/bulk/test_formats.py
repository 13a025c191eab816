"""Rows as text, and found again in files."""

from __future__ import annotations

import csv
import io
import json

import pytest

from service.bulk.formats import BrokenFile, Csv, FileFormat, JsonLines, Lines
from service.bulk.rows import Problem, Row

BEST = [
    {"class_id": 3, "label": "Käse, alt", "probability": 0.7},
    {"class_id": 1, "label": "dog", "probability": 0.2},
]
PROBLEM = Problem("not-an-image", "Not an image", 'It begins like "text".', "Send an image.")
ROWS = [
    Row("a.jpg", "net", 2, {"width": 4, "height": 3, "predictions": BEST}),
    Row('odd "name",\nwith a line\r\nbreak.jpg', "net", 2, {"width": 4, "height": 3, "predictions": BEST[:1]}),
    Row("b.jpg", "net", 2, PROBLEM.entry()),
]


def text(form: FileFormat, rows: list[Row] = ROWS) -> bytes:
    return form.header + b"".join(map(form.line, rows))


@pytest.mark.parametrize("form", [JsonLines(), Csv(2)], ids=["json", "csv"])
class TestFound:
    def test_every_row_is_found_again(self, form: FileFormat) -> None:
        found = list(form.written(io.BytesIO(text(form))))
        assert [(row.file, row.model, row.version) for row in found] == [row[:3] for row in ROWS]
        ends = [len(text(form, ROWS[:count])) for count in (1, 2, 3)]
        assert [row.end for row in found] == ends

    def test_wherever_it_is_cut_off_the_complete_rows_are_found(self, form: FileFormat) -> None:
        whole = text(form)
        ends = [len(text(form, ROWS[:count])) for count in (1, 2, 3)]
        for size in range(len(form.header), len(whole) + 1):
            found = list(form.written(io.BytesIO(whole[:size])))
            assert [row.end for row in found] == [end for end in ends if end <= size], size

    def test_another_file_is_refused(self, form: FileFormat) -> None:
        with pytest.raises(BrokenFile, match="line"):
            list(form.written(io.BytesIO(b"some,other\nfile,here\n")))

    def test_a_broken_line_within_is_refused(self, form: FileFormat) -> None:
        broken = form.header + form.line(ROWS[0]) + b"nonsense\n" + form.line(ROWS[0])
        with pytest.raises(BrokenFile, match="line"):
            list(form.written(io.BytesIO(broken)))


def test_json_is_the_entry_of_the_service() -> None:
    first, _, last = map(json.loads, text(JsonLines()).splitlines())
    assert first == {"file": "a.jpg", "model": "net", "version": 2, "width": 4, "height": 3, "predictions": BEST}
    assert last["error"]["type"] == "/problems/not-an-image"


def test_csv_has_the_best_classes_in_columns() -> None:
    first, second, last = csv.DictReader(io.StringIO(text(Csv(2)).decode(), newline=""))
    assert (first["answer"], first["label_1"], first["probability_2"]) == ("Käse, alt", "Käse, alt", "0.2")
    assert (second["file"], second["class_id_2"]) == (ROWS[1].file, "")
    assert (last["problem"], last["detail"], last["answer"]) == ("not-an-image", 'It begins like "text".', "")


def test_csv_with_other_columns_is_refused() -> None:
    with pytest.raises(BrokenFile, match="it depends on --top-k"):
        list(Csv(3).written(io.BytesIO(text(Csv(2)))))


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ({"predictions": BEST}, "a: Käse, alt 0.700, dog 0.200\n"),
        ({"predictions": BEST, "rejected": True}, "a: rejected (Käse, alt 0.700, dog 0.200)\n"),
        ({"predictions": BEST, "labels": BEST[:1]}, "a: Käse, alt 0.700\n"),
        ({"predictions": BEST, "labels": []}, "a: no class\n"),
        (PROBLEM.entry(), 'a: error: Not an image. It begins like "text". Send an image.\n'),
    ],
)
def test_lines_for_people(entry: dict[str, object], expected: str) -> None:
    assert Lines().line(Row("a", "net", 1, entry)).decode() == expected


def test_lines_move_no_cursor() -> None:
    line = Lines().line(Row("a\x1b[2J\n.jpg", "net", 1, {"predictions": BEST[1:]}))
    assert line == b"a\\x1b[2J\\n.jpg: dog 0.200\n"
