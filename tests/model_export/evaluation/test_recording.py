"""`predictions.csv` of models whose classes differ or share a name."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np

from model_export.datasets.drawings import Drawings
from model_export.evaluation.recording import write_evaluation_files
from model_export.evaluation.result import Evaluation


def test_columns_of_classes(tmp_path: Path) -> None:
    dataset = Drawings(seed=1, count=2, classes=("circle", "cross"))

    def answers(model: str, classes: tuple[str, ...], rows: list[list[float]]) -> Evaluation:
        return Evaluation(model, "d", "1-crop", classes, np.array([0, 1]), np.array(rows, np.float32))

    write_evaluation_files(
        tmp_path,
        dataset,
        [
            answers("one", ("crane", "cat", "crane"), [[0.5, 0.25, 0.25], [0.125, 0.125, 0.75]]),
            answers("two", ("cat", "dog"), [[0.25, 0.75], [1, 1e-9]]),
        ],
        [None, None],
        [None, None],
    )
    with (tmp_path / "predictions.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["p(crane, class 2)"] for row in rows] == ["0.25", "0.75", "", ""]
    assert [row["p(cat)"] for row in rows] == ["0.25", "0.125", "0.25", "1"]
    assert [row["p(dog)"] for row in rows] == ["", "", "0.75", "1e-09"]
    assert [(row["true"], row["predicted"]) for row in rows[1:3]] == [("cat", "crane"), ("cat", "dog")]
    assert list(tmp_path.glob(".*")) == []
