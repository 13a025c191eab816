"""A report as one HTML file, with embedded images, without scripts or external resources."""

from __future__ import annotations

import base64
import io
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from matplotlib.figure import Figure
from PIL import ImageOps

from model_export.datasets.base import Dataset
from model_export.evaluation.class_scores import class_scores, macro_f1
from model_export.evaluation.metrics import (
    confusion_matrix,
    expected_calibration_error,
    most_confused,
    reliability_bins,
    top_k_accuracy,
    worst_mistakes,
)
from model_export.evaluation.rejection import risk_coverage
from model_export.evaluation.result import Evaluation
from model_export.report.evaluation_plots import confusion_plot, rejection_plot, reliability_plot
from model_export.report.plots import to_png, training_curves
from model_export.training.history import Row, best_row
from service.runtime.disk import write_atomically
from service.runtime.machine import usable_cores, versions

MISTAKES = 24  # images shown
CONFUSIONS = 12  # rows listed
THUMBNAIL = 112  # longer side, pixels
OPEN_CLASSES = 60  # up to so many classes, their table is unfolded
PACKAGES = ("resnet-service", "torch", "numpy", "pillow", "onnxruntime", "onnxruntime-gpu")  # versions shown

Pairs = Sequence[tuple[str, str]]

# Class names and file names come from the data set and are not to be trusted: everything is escaped.
TEMPLATES = Environment(
    loader=FileSystemLoader(Path(__file__).parent),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


def write_page(path: Path, template: str, **values: Any) -> None:
    """Writes a page atomically.

    Args:
        template: the name of a file beside this module.
        values: what it shows.

    Raises:
        OSError: the page cannot be written.
    """
    page = TEMPLATES.get_template(template).render(values)
    write_atomically(path, page.encode("utf-8", "replace"))  # file names may hold bytes that are not UTF-8


class Plot(NamedTuple):
    """A plot on the page."""

    heading: str
    alt: str
    image: str  # data URI


class Mistake(NamedTuple):
    """A wrongly predicted image."""

    title: str
    image: str  # data URI
    true: str
    predicted: str
    confidence: float  # probability of the predicted class, percent
    true_probability: float  # percent


class ClassRow(NamedTuple):
    """A row of the table of classes. Scores in percent, as in `ClassScores`; None without a value."""

    name: str
    images: int
    precision: float | None
    recall: float | None
    f1: float | None
    threshold: float | None  # a probability
    threshold_f1: float | None


def write_report(
    path: Path,
    *,
    title: str,
    summary: Pairs,
    recipe: Pairs,
    rows: Sequence[Row],
    evaluation: Evaluation,
    dataset: Dataset,
) -> None:
    """Writes the report atomically. Its last section names the machine and the package versions.

    Args:
        title: heading of the page.
        summary: names and values for the top of the page: network, duration and so on.
        recipe: every setting of the training; empty if unknown.
        rows: the history of the training; empty if unknown.
        evaluation: the model's predictions, at least one.
        dataset: the evaluated data set.

    Raises:
        ImageFault: an image is broken.
        OSError: an image is missing, or the report cannot be written.
    """
    write_page(
        path,
        "report.html",
        title=title,
        evaluation=evaluation,
        headline=_headline(rows, evaluation),
        summary=summary,
        plots=_plots(rows, evaluation),
        mistakes=_mistakes(evaluation, dataset),
        wrong=int((evaluation.probabilities.argmax(axis=1) != evaluation.labels).sum()),
        confusions=most_confused(evaluation, CONFUSIONS),
        classes=_class_rows(evaluation),
        open_classes=OPEN_CLASSES,
        recipe=recipe,
        environment=environment(),
    )


def _headline(rows: Sequence[Row], evaluation: Evaluation) -> list[tuple[str, str]]:
    figures = [("top-1 accuracy", f"{100 * top_k_accuracy(evaluation, 1):.2f}%")]
    if len(evaluation.classes) > 5:  # with five or fewer it is always 100%
        figures.append(("top-5 accuracy", f"{100 * top_k_accuracy(evaluation, 5):.2f}%"))
    figures.append(("mean F1 of the classes", f"{100 * macro_f1(evaluation):.2f}%"))
    figures.append(("calibration error (ECE)", f"{100 * expected_calibration_error(evaluation):.2f}%"))
    figures.append(("images", f"{len(evaluation.labels):,}"))
    if rows:
        figures.append(("best epoch", f"{best_row(rows).epoch:.4g}"))
    return figures


def _plots(rows: Sequence[Row], evaluation: Evaluation) -> list[Plot]:
    plots = []
    if rows:
        alt = "Error, loss and learning rate against epochs"
        plots.append(as_plot("Training", alt, training_curves(rows, alt)))
    alt = "True against predicted classes"
    plots.append(as_plot("Confusion", alt, confusion_plot(confusion_matrix(evaluation), evaluation.classes, alt)))
    alt = "Accuracy against confidence"
    plots.append(as_plot("Calibration", alt, reliability_plot(reliability_bins(evaluation), alt)))
    alt = "Error of the answers against the share of images that are answered"
    plots.append(as_plot("Rejection", alt, rejection_plot(risk_coverage(evaluation), alt)))
    return plots


def as_plot(heading: str, alt: str, figure: Figure) -> Plot:
    return Plot(heading, alt, _data_uri("image/png", to_png(figure)))


def _mistakes(evaluation: Evaluation, dataset: Dataset) -> list[Mistake]:
    mistakes = []
    for index in worst_mistakes(evaluation, MISTAKES).tolist():
        probabilities = evaluation.probabilities[index]
        true, predicted = int(evaluation.labels[index]), int(probabilities.argmax())
        mistakes.append(
            Mistake(
                title=dataset.title(index),
                image=thumbnail(dataset, index, THUMBNAIL),
                true=evaluation.classes[true],
                predicted=evaluation.classes[predicted],
                confidence=100 * float(probabilities[predicted]),
                true_probability=100 * float(probabilities[true]),
            )
        )
    return mistakes


def thumbnail(dataset: Dataset, index: int, side: int) -> str:
    """An image as a data URI, its longer side `side` pixels.

    Raises:
        ImageFault: it is broken.
        OSError: it is missing.
    """
    file = io.BytesIO()
    ImageOps.contain(dataset.image(index), (side, side)).save(file, "JPEG", quality=85)
    return _data_uri("image/jpeg", file.getvalue())


def _class_rows(evaluation: Evaluation) -> list[ClassRow]:
    """The lowest F1 first, classes without images last."""
    scores = class_scores(evaluation)
    images = np.bincount(evaluation.labels, minlength=len(evaluation.classes))
    return [
        ClassRow(
            evaluation.classes[i],
            int(images[i]),
            _value(scores.precision[i], 100),
            _value(scores.recall[i], 100),
            _value(scores.f1[i], 100),
            _value(scores.threshold[i], 1),
            _value(scores.threshold_f1[i], 100),
        )
        for i in np.argsort(scores.f1, kind="stable")  # NaN sorts last
    ]


def _value(number: float, factor: int) -> float | None:
    return None if np.isnan(number) else factor * float(number)


def environment() -> Pairs:
    """Names and values for the machine and the package versions."""
    found = [("system", platform.platform()), ("CPU", f"{platform.machine()}, {usable_cores()} cores")]
    if torch.cuda.is_available():
        found.append(("GPU", torch.cuda.get_device_name()))
    return [*found, ("python", platform.python_version()), *versions(PACKAGES).items()]


def _data_uri(media_type: str, content: bytes) -> str:
    return f"data:{media_type};base64,{base64.b64encode(content).decode()}"
