"""Medians, ranges and tables, from invented figures."""

from __future__ import annotations

from benchmarks.tables import markdown_table, medians, spread, with_range


def test_repeated_measurements_are_a_median_with_its_range() -> None:
    figures = spread([3.0, 1.0, 2.25])
    assert figures == {"median": 2.25, "lowest": 1.0, "highest": 3.0}
    assert with_range(figures) == "2.2 (1.0–3.0)"
    assert with_range(figures, digits=0) == "2 (1–3)"
    assert medians({"model": "a", "rate": figures}) == {"rate": 2.25}


def test_a_table_has_a_line_for_every_row() -> None:
    assert markdown_table(["a", "b"], [["1", "2"]]) == "| a | b |\n| --- | --- |\n| 1 | 2 |"
