"""Evaluations as entries of model cards, and as JSON and CSV files for other programs."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from model_export.datasets.base import Dataset
from model_export.disk import write_atomically
from model_export.evaluation.metrics import (
    confusion_matrix,
    expected_calibration_error,
    negative_log_likelihood,
    per_class_accuracy,
    top_k_accuracy,
)
from model_export.evaluation.result import Evaluation
from service.runtime.choices import Precision
from service.runtime.model_card import Accuracy, Calibration


def accuracy_of(evaluation: Evaluation, provider: str = "pytorch", precision: Precision = "fp32") -> Accuracy:
    """The accuracy entry of a model card; provider and precision are those that were evaluated."""
    return Accuracy(
        dataset=evaluation.dataset,
        images=len(evaluation.labels),
        top1=top_k_accuracy(evaluation, 1),
        top5=top_k_accuracy(evaluation, 5),
        provider=provider,
        precision=precision,
    )


def write_evaluation_files(
    folder: Path, dataset: Dataset, evaluations: Sequence[Evaluation], calibrations: Sequence[Calibration | None]
) -> None:
    """Writes `evaluation.json` (all metrics) and `predictions.csv` (one line per model and image) into a folder.

    Args:
        dataset: the data set of all evaluations.
        calibrations: of the first evaluations, in their order; an ensemble comes last and has none.

    Raises:
        OSError: the files cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    entries = [_metrics(evaluation) for evaluation in evaluations]
    for entry, calibration in zip(entries, calibrations, strict=False):
        entry["calibration"] = calibration and calibration.model_dump()
    write_atomically(folder / "evaluation.json", (json.dumps({"evaluations": entries}) + "\n").encode())
    table = io.StringIO(newline="")
    writer = csv.writer(table)
    writer.writerow(("model", "title", "true", "predicted", "probability"))
    titles = [dataset.title(i) for i in range(len(dataset))]
    for evaluation in evaluations:
        names = evaluation.classes
        predicted = evaluation.probabilities.argmax(axis=1)
        confidence = evaluation.probabilities.max(axis=1)
        writer.writerows(
            (evaluation.model, title, names[label], names[answer], f"{probability:.6f}")
            for title, label, answer, probability in zip(titles, evaluation.labels, predicted, confidence, strict=True)
        )
    write_atomically(folder / "predictions.csv", table.getvalue().encode())


def _metrics(evaluation: Evaluation) -> dict[str, object]:
    per_class = per_class_accuracy(evaluation)
    return {
        "model": evaluation.model,
        "dataset": evaluation.dataset,
        "method": evaluation.method,
        "images": len(evaluation.labels),
        "top1": top_k_accuracy(evaluation, 1),
        "top5": top_k_accuracy(evaluation, 5),
        "negative_log_likelihood": negative_log_likelihood(evaluation),
        "expected_calibration_error": expected_calibration_error(evaluation),
        "classes": evaluation.classes,
        "per_class_accuracy": [None if np.isnan(share) else float(share) for share in per_class],
        "confusion_matrix": confusion_matrix(evaluation).tolist(),
    }
