"""What `evaluate` prints: figures, reported figures and mistakes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from model_export.cli.table import text_table
from model_export.evaluation.metrics import (
    confusion_matrix,
    expected_calibration_error,
    most_confused,
    negative_log_likelihood,
    per_class_accuracy,
    top_k_accuracy,
    weakest_classes,
)
from model_export.evaluation.reported import recognise_dataset, reported_errors
from model_export.evaluation.result import Evaluation, Method
from service.runtime.model_card import Architecture

HEADER = ("MODEL", "TOP-1", "TOP-5", "TOP-1 ERROR", "TOP-5 ERROR", "IMAGES", "NLL", "ECE")
MOST_LINES = 5  # of the weakest classes, and of the confusions


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


def mistakes(evaluation: Evaluation) -> str:
    """The classes with the lowest accuracy, and the most frequent confusions; empty without any."""
    names = evaluation.classes
    accuracy, images = per_class_accuracy(evaluation), confusion_matrix(evaluation).sum(axis=1)
    lines = []
    if weakest := weakest_classes(evaluation, MOST_LINES):
        lines += ["", f"lowest accuracy ({evaluation.model}):"]
        lines += [f"  {names[i]}: {100 * accuracy[i]:.1f} % of {images[i]}" for i in weakest]
    if confused := most_confused(evaluation, MOST_LINES):
        lines += ["", "most often confused:"]
        lines += [f"  {names[pair.true]} taken for {names[pair.predicted]}: {pair.images}" for pair in confused]
    return "".join(f"{line}\n" for line in lines)
