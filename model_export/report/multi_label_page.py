"""The report of a multi-label model as one HTML file, with embedded plots, without scripts or external resources."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from model_export.evaluation.average_precision import mean_average_precision
from model_export.evaluation.metrics import reliability_of
from model_export.evaluation.multi_label import (
    MultiLabelEvaluation,
    best_thresholds,
    calibration_errors,
    class_scores,
    classwise_calibration_error,
    macro_f1,
    micro_f1,
)
from model_export.report.evaluation_plots import EVERY_CLASS, reliability_plot
from model_export.report.page import OPEN_CLASSES, Pairs, Plot, as_plot, environment, write_page
from model_export.report.plots import training_curves
from model_export.training.history import Row


class ClassRow(NamedTuple):
    """A row of the table of classes. Shares in percent; None without a value."""

    name: str
    images: int
    average_precision: float | None
    precision: float | None
    recall: float | None
    f1: float | None
    threshold: float
    best_threshold: float
    calibration_error: float | None


def write_multi_label_report(
    path: Path,
    *,
    title: str,
    summary: Pairs,
    recipe: Pairs,
    rows: Sequence[Row],
    evaluation: MultiLabelEvaluation,
) -> None:
    """Writes the report atomically. Arguments as of `page.write_report`.

    Raises:
        OSError: the report cannot be written.
    """
    precision = mean_average_precision(evaluation.present, evaluation.probabilities)
    headline = [
        ("mean average precision (mAP)", f"{100 * precision:.2f}%"),
        ("micro F1", f"{100 * micro_f1(evaluation):.2f}%"),
        ("macro F1", f"{100 * macro_f1(evaluation):.2f}%"),
        ("calibration error (classwise ECE)", f"{100 * classwise_calibration_error(evaluation):.2f}%"),
        ("images", f"{len(evaluation.present):,}"),
    ]
    write_page(
        path,
        "multi_label.html",
        title=title,
        evaluation=evaluation,
        headline=headline,
        summary=summary,
        plots=_plots(rows, evaluation),
        classes=_class_rows(evaluation),
        open_classes=OPEN_CLASSES,
        recipe=recipe,
        environment=environment(),
    )


def _plots(rows: Sequence[Row], evaluation: MultiLabelEvaluation) -> list[Plot]:
    plots = []
    if rows:
        alt = "1 - mAP, loss and learning rate against epochs"
        plots.append(as_plot("Training", alt, training_curves(rows, alt)))
    alt = "How often a class is present, against its probability"
    known = evaluation.present.any(axis=0)  # the data may not know the others
    bins = reliability_of(evaluation.probabilities[:, known].ravel(), evaluation.present[:, known].ravel())
    plots.append(as_plot("Calibration", alt, reliability_plot(bins, alt, EVERY_CLASS)))
    return plots


def _class_rows(evaluation: MultiLabelEvaluation) -> list[ClassRow]:
    """The lowest average precision first, classes without images last."""
    scores, best, errors = class_scores(evaluation), best_thresholds(evaluation), calibration_errors(evaluation)
    images = evaluation.present.sum(axis=0)
    return [
        ClassRow(
            evaluation.classes[i],
            int(images[i]),
            _percent(scores.average_precision[i]),
            _percent(scores.precision[i]),
            _percent(scores.recall[i]),
            _percent(scores.f1[i]),
            float(evaluation.thresholds[i]),
            float(best[i]),
            _percent(errors[i]),
        )
        for i in np.argsort(scores.average_precision, kind="stable")  # NaN sorts last
    ]


def _percent(share: float) -> float | None:
    return None if np.isnan(share) else 100 * float(share)
