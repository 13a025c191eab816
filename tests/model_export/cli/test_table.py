from __future__ import annotations

from model_export.cli.table import text_table


def test_columns_are_aligned() -> None:
    rows = [("NAME", "MB", "FILES"), ("a", "1", "fp32"), ("longer", "100", "")]
    assert text_table(rows, right={1}).splitlines() == ["NAME     MB  FILES", "a         1  fp32", "longer  100"]
