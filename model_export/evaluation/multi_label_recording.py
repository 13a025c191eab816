"""Evaluations of multi-label models as JSON and CSV files for other programs."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from model_export.datasets.base import Dataset
from model_export.evaluation.average_precision import mean_average_precision
from model_export.evaluation.multi_label import (
    MultiLabelEvaluation,
    best_thresholds,
    calibration_errors,
    class_scores,
    classwise_calibration_error,
    macro_f1,
    micro_f1,
)
from service.runtime.disk import replacing, write_atomically
from service.runtime.measured import Calibration

SEPARATOR = ";"  # of labels, as in `labels.csv`


def write_multi_label_files(
    folder: Path,
    dataset: Dataset,
    evaluations: Sequence[MultiLabelEvaluation],
    calibrations: Sequence[Calibration | None],
) -> None:
    """Writes `evaluation.json` (all metrics) and `predictions.csv` (a line per model and image) into a folder.

    Args:
        calibrations: of the first evaluations, in their order; an ensemble comes last and has none.

    Raises:
        OSError: the files cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    entries = [_metrics(evaluation) for evaluation in evaluations]
    for entry, calibration in zip(entries, calibrations, strict=False):
        entry["calibration"] = calibration and calibration.model_dump()
    write_atomically(folder / "evaluation.json", (json.dumps({"evaluations": entries}) + "\n").encode())
    columns = list(dict.fromkeys(f"p({name})" for evaluation in evaluations for name in evaluation.classes))
    with replacing(folder / "predictions.csv") as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, ("model", "title", "true", "predicted", *columns))
        table.writeheader()
        for evaluation in evaluations:
            for i, row in enumerate(evaluation.probabilities.tolist()):
                true, predicted = (
                    SEPARATOR.join(evaluation.classes[j] for j in np.flatnonzero(which[i]))
                    for which in (evaluation.present, evaluation.answered)
                )
                table.writerow(
                    {"model": evaluation.model, "title": dataset.title(i), "true": true, "predicted": predicted}
                    | {f"p({name})": f"{value:.6g}" for name, value in zip(evaluation.classes, row, strict=True)}
                )


def _metrics(evaluation: MultiLabelEvaluation) -> dict[str, object]:
    scores = class_scores(evaluation)._asdict() | {
        "threshold": evaluation.thresholds,
        "best_threshold": best_thresholds(evaluation),
        "calibration_error": calibration_errors(evaluation),
    }
    return {
        "model": evaluation.model,
        "dataset": evaluation.dataset,
        "method": evaluation.method,
        "images": len(evaluation.present),
        "mean_average_precision": mean_average_precision(evaluation.present, evaluation.probabilities),
        "micro_f1": micro_f1(evaluation),
        "macro_f1": macro_f1(evaluation),
        "classwise_calibration_error": classwise_calibration_error(evaluation),
        "classes": evaluation.classes,
        "per_class": [
            {"class": name, "images": int(images)}
            | {key: None if np.isnan(values[i]) else float(values[i]) for key, values in scores.items()}
            for i, (name, images) in enumerate(zip(evaluation.classes, evaluation.present.sum(axis=0), strict=True))
        ],
    }
