"""What `evaluate` prints: figures, reported figures, scores of classes and mistakes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from model_export.cli.table import text_table
from model_export.evaluation.class_scores import class_scores
from model_export.evaluation.metrics import (
    expected_calibration_error,
    most_confused,
    negative_log_likelihood,
    top_k_accuracy,
)
from model_export.evaluation.reported import recognise_dataset, reported_errors
from model_export.evaluation.result import Evaluation, Method
from service.runtime.model_card import Architecture

HEADER = ("MODEL", "TOP-1", "TOP-5", "TOP-1 ERROR", "TOP-5 ERROR", "IMAGES", "NLL", "ECE")
CLASS_HEADER = ("CLASS", "IMAGES", "PRECISION", "RECALL", "F1", "BEST THRESHOLD", "F1 THERE")
MOST_CLASSES = 20  # of the weakest classes
MOST_LINES = 5  # of the confusions


def figures_table(evaluations: Sequence[Evaluation]) -> str:
    """A table: accuracy, error and calibration error (ECE) in percent, negative log-likelihood (NLL) in nats."""
    rows = [HEADER]
    for evaluation in evaluations:
        top1, top5 = (100 * top_k_accuracy(evaluation, k) for k in (1, 5))
        rows.append(
            (
                evaluation.model,
                f"{top1:.2f} %",
                f"{top5:.2f} %",
                f"{100 - top1:.2f} %",
                f"{100 - top5:.2f} %",
                str(len(evaluation.labels)),
                f"{negative_log_likelihood(evaluation):.4f}",
                f"{100 * expected_calibration_error(evaluation):.2f} %",
            )
        )
    return text_table(rows, right=range(1, len(HEADER)))


def reported_figures(architectures: Sequence[Architecture], method: Method, classes: Sequence[str]) -> Iterator[str]:
    """A line for each network with the errors reported for it, if any are comparable.

    Args:
        classes: of the data set; they show which one it is.
    """
    dataset = recognise_dataset(classes)
    for architecture in dict.fromkeys(architectures):
        if errors := reported_errors(architecture, method, dataset):
            top5 = "" if errors.top5 is None else f", top-5 error {errors.top5:.2f} %"
            yield f"reported for {architecture.name}: top-1 error {errors.top1:.2f} %{top5} ({errors.source})"


def class_table(evaluation: Evaluation) -> str:
    """The scores of the classes that have images, in percent, the lowest F1 first; at most `MOST_CLASSES`."""
    scores = class_scores(evaluation)
    images = np.bincount(evaluation.labels, minlength=len(evaluation.classes))
    weakest = [int(i) for i in np.argsort(scores.f1, kind="stable") if images[i]]  # NaN comes last
    rows = [CLASS_HEADER]
    for i in weakest[:MOST_CLASSES]:
        precision, recall, f1, threshold_f1 = (
            _percent(values[i]) for values in (scores.precision, scores.recall, scores.f1, scores.threshold_f1)
        )
        threshold = f"{scores.threshold[i]:.3f}"
        rows.append((evaluation.classes[i], str(images[i]), precision, recall, f1, threshold, threshold_f1))
    shown = f"the {MOST_CLASSES} classes with the lowest F1" if len(weakest) > MOST_CLASSES else "every class"
    return f"{shown} ({evaluation.model}):\n{text_table(rows, right=range(1, len(CLASS_HEADER)))}"


def mistakes(evaluation: Evaluation) -> str:
    """The most frequent confusions; empty without any."""
    names = evaluation.classes
    lines = []
    if confused := most_confused(evaluation, MOST_LINES):
        lines += ["", "most often confused:"]
        lines += [f"  {names[pair.true]} taken for {names[pair.predicted]}: {pair.images}" for pair in confused]
    return "".join(f"{line}\n" for line in lines)


def _percent(share: float) -> str:
    return "-" if np.isnan(share) else f"{100 * share:.1f} %"
