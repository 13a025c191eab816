"""What is kept of evaluations: in the card of a published model, and as files for other programs."""

from __future__ import annotations

import csv
import io
import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from model_export.datasets.base import Dataset
from model_export.disk import write_whole, written_whole
from model_export.evaluation.metrics import (
    confusion_matrix,
    expected_calibration_error,
    negative_log_likelihood,
    per_class_accuracy,
    top_k_accuracy,
)
from model_export.evaluation.result import Evaluation
from service.card import CARD_FILE, Accuracy, Calibration, ModelCard


def accuracy_of(evaluation: Evaluation) -> Accuracy:
    """The figures that a model card carries."""
    return Accuracy(
        dataset=evaluation.dataset,
        images=len(evaluation.labels),
        top1=top_k_accuracy(evaluation, 1),
        top5=top_k_accuracy(evaluation, 5),
    )


def record(folder: Path, accuracy: Accuracy, calibration: Calibration | None) -> None:
    """Writes them into the card of a published folder; all else in it stays, also a calibration if None is given.

    A running service shows and applies them after a restart.

    Raises:
        CardError: the card cannot be read.
        OSError: it cannot be written; the old one is still there.
    """
    card = ModelCard.read(folder)
    changed = card.model_copy(update={"accuracy": accuracy, "calibration": calibration or card.calibration})
    path = folder / CARD_FILE
    with written_whole(path) as temporary:
        temporary.write_text(changed.to_json(), encoding="utf-8")
        shutil.copymode(path, temporary)  # the service, another user, goes on reading it


def write_files(
    folder: Path, dataset: Dataset, evaluations: Sequence[Evaluation], calibrations: Sequence[Calibration | None]
) -> None:
    """Writes `evaluation.json` (all figures) and `predictions.csv` (every image, by model) into a folder.

    Args:
        dataset: the one that all were evaluated on.
        calibrations: of the first evaluations, in their order; an ensemble, the last, has none.

    Raises:
        OSError: they cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    found = [_figures(evaluation) for evaluation in evaluations]
    for figures, calibration in zip(found, calibrations, strict=False):
        figures["calibration"] = calibration and calibration.model_dump()
    write_whole(folder / "evaluation.json", (json.dumps({"evaluations": found}) + "\n").encode())
    table = io.StringIO(newline="")
    rows = csv.writer(table)
    rows.writerow(("model", "title", "true", "predicted", "probability"))
    titles = [dataset.title(i) for i in range(len(dataset))]
    for evaluation in evaluations:
        names = evaluation.classes
        predicted = evaluation.probabilities.argmax(axis=1)
        best = evaluation.probabilities.max(axis=1)
        rows.writerows(
            (evaluation.model, title, names[label], names[answer], f"{probability:.6f}")
            for title, label, answer, probability in zip(titles, evaluation.labels, predicted, best, strict=True)
        )
    write_whole(folder / "predictions.csv", table.getvalue().encode())


def _figures(evaluation: Evaluation) -> dict[str, object]:
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
