"""Evaluations as entries of model cards, and as JSON and CSV files for other programs."""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from model_export.datasets.base import Dataset
from model_export.evaluation.class_scores import class_scores, macro_f1
from model_export.evaluation.metrics import (
    confusion_matrix,
    expected_calibration_error,
    negative_log_likelihood,
    top_k_accuracy,
)
from model_export.evaluation.result import Evaluation
from service.runtime.choices import Precision
from service.runtime.disk import replacing, write_atomically
from service.runtime.measured import Accuracy, Calibration, Rejection


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
    folder: Path,
    dataset: Dataset,
    evaluations: Sequence[Evaluation],
    calibrations: Sequence[Calibration | None],
    rejections: Sequence[Rejection | None],
) -> None:
    """Writes `evaluation.json` (all metrics) and `predictions.csv` (a line per model and image) into a folder.

    The columns of probabilities in `predictions.csv` are the classes of all models; a model leaves those empty that it
    does not have.

    Args:
        dataset: the data set of all evaluations.
        calibrations, rejections: of the first evaluations, in their order; an ensemble comes last and has neither.

    Raises:
        OSError: the files cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    entries = [_metrics(evaluation) for evaluation in evaluations]
    for entry, calibration, rejection in zip(entries, calibrations, rejections, strict=False):
        entry["calibration"] = calibration and calibration.model_dump()
        entry["rejection"] = rejection and rejection.model_dump()
    write_atomically(folder / "evaluation.json", (json.dumps({"evaluations": entries}) + "\n").encode())
    columns = list(dict.fromkeys(name for evaluation in evaluations for name in _columns(evaluation)))
    titles = [dataset.title(i) for i in range(len(dataset))]
    with replacing(folder / "predictions.csv") as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, ("model", "title", "true", "predicted", "probability", *columns))
        table.writeheader()
        for evaluation in evaluations:
            table.writerows(_predictions(evaluation, titles))


def _predictions(evaluation: Evaluation, titles: Sequence[str]) -> Iterator[dict[str, str]]:
    """The lines of a model: one for each image, with the probability of every class."""
    names, columns = evaluation.classes, _columns(evaluation)
    for title, label, row in zip(titles, evaluation.labels, evaluation.probabilities, strict=True):
        numbers = [f"{probability:.6g}" for probability in row.tolist()]
        answer = int(row.argmax())
        yield {
            "model": evaluation.model,
            "title": title,
            "true": names[label],
            "predicted": names[answer],
            "probability": numbers[answer],
            **dict(zip(columns, numbers, strict=True)),
        }


def _columns(evaluation: Evaluation) -> list[str]:
    """Names of the columns of probabilities; where classes share a name, with their ids (ImageNet has two cranes)."""
    times = Counter(evaluation.classes)
    return [f"p({name})" if times[name] == 1 else f"p({name}, class {i})" for i, name in enumerate(evaluation.classes)]


def _metrics(evaluation: Evaluation) -> dict[str, object]:
    scores = class_scores(evaluation)
    images = np.bincount(evaluation.labels, minlength=len(evaluation.classes)).tolist()
    return {
        "model": evaluation.model,
        "dataset": evaluation.dataset,
        "method": evaluation.method,
        "images": len(evaluation.labels),
        "top1": top_k_accuracy(evaluation, 1),
        "top5": top_k_accuracy(evaluation, 5),
        "negative_log_likelihood": negative_log_likelihood(evaluation),
        "expected_calibration_error": expected_calibration_error(evaluation),
        "macro_f1": macro_f1(evaluation),
        "classes": evaluation.classes,
        "per_class": [
            {"class": name, "images": count, **{key: None if np.isnan(x) else float(x) for key, x in row}}
            for name, count, row in zip(
                evaluation.classes,
                images,
                (zip(scores._fields, values, strict=True) for values in zip(*scores, strict=True)),
                strict=True,
            )
        ],
        "confusion_matrix": confusion_matrix(evaluation).tolist(),
    }
