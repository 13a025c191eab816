"""A report as one HTML file: pictures inside, no script, nothing fetched from anywhere."""

from __future__ import annotations

import base64
import contextlib
import importlib.metadata
import io
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from matplotlib.figure import Figure
from PIL import ImageOps

from model_export.datasets.base import Dataset
from model_export.disk import write_whole
from model_export.evaluation.metrics import (
    confusion_matrix,
    expected_calibration_error,
    most_confused,
    per_class_accuracy,
    reliability_bins,
    top_k_accuracy,
    worst_mistakes,
)
from model_export.evaluation.result import Evaluation
from model_export.report.plots import confusion, curves, reliability, to_png
from model_export.training.history import Row
from service.providers import usable_cores

MISTAKES = 24  # shown as pictures
CONFUSIONS = 12  # listed
THUMBNAIL = 112  # pixels, the longer side
OPEN_CLASSES = 60  # classes up to which their table is unfolded
PACKAGES = ("resnet-service", "torch", "numpy", "pillow", "onnxruntime", "onnxruntime-gpu")  # whose versions are named

Pairs = Sequence[tuple[str, str]]

# Class names and file names come from whoever made the data set: everything is escaped.
_TEMPLATES = Environment(
    loader=FileSystemLoader(Path(__file__).parent),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


class Plot(NamedTuple):
    """A picture of the page."""

    heading: str
    alt: str
    image: str  # data URI


class Mistake(NamedTuple):
    """An image that was not recognised."""

    title: str
    image: str  # data URI
    true: str
    predicted: str
    confidence: float  # percent
    of_true: float  # the probability of the true class, percent


class ClassLine(NamedTuple):
    """A line of the table of classes."""

    name: str
    images: int
    accuracy: float | None  # percent; None without images


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
    """Writes a report that is never seen half-written. It ends with the machine and the versions that it was made with.

    Args:
        title: of the page, for people.
        summary: names and values for the top of the page, beside the accuracy: network, duration, and so on.
        recipe: every setting of the training; empty where it is not known.
        rows: the history of the training; empty where it is not known.
        evaluation: the model's answers, at least one.
        dataset: what was evaluated, in the same order.

    Raises:
        ImageProblem: an image is broken.
        OSError: an image has gone, or the report cannot be written.
    """
    page = _TEMPLATES.get_template("report.html").render(
        title=title,
        evaluation=evaluation,
        headline=_headline(rows, evaluation),
        summary=summary,
        plots=_plots(rows, evaluation),
        mistakes=_mistakes(evaluation, dataset),
        wrong=int((evaluation.probabilities.argmax(axis=1) != evaluation.labels).sum()),
        confusions=most_confused(evaluation, CONFUSIONS),
        classes=_class_lines(evaluation),
        open_classes=OPEN_CLASSES,
        recipe=recipe,
        environment=environment(),
    )
    write_whole(path, page.encode("utf-8", "replace"))  # file names may hold bytes that are no UTF-8


def _headline(rows: Sequence[Row], evaluation: Evaluation) -> list[tuple[str, str]]:
    figures = [("top-1 accuracy", f"{100 * top_k_accuracy(evaluation, 1):.2f}%")]
    if len(evaluation.classes) > 5:  # with fewer it is always 100%
        figures.append(("top-5 accuracy", f"{100 * top_k_accuracy(evaluation, 5):.2f}%"))
    figures.append(("calibration error (ECE)", f"{100 * expected_calibration_error(evaluation):.2f}%"))
    figures.append(("images", f"{len(evaluation.labels):,}"))
    if rows:
        figures.append(("best epoch", f"{min(rows, key=lambda row: row.val_error).epoch:.4g}"))
    return figures


def _plots(rows: Sequence[Row], evaluation: Evaluation) -> list[Plot]:
    plots = []
    if rows:
        alt = "Error, loss and learning rate against epochs"
        plots.append(_plot("Training", alt, curves(rows, alt)))
    alt = "True against predicted classes"
    plots.append(_plot("Confusion", alt, confusion(confusion_matrix(evaluation), evaluation.classes, alt)))
    alt = "Accuracy against confidence"
    plots.append(_plot("Calibration", alt, reliability(reliability_bins(evaluation), alt)))
    return plots


def _plot(heading: str, alt: str, figure: Figure) -> Plot:
    return Plot(heading, alt, _data_uri("image/png", to_png(figure)))


def _mistakes(evaluation: Evaluation, dataset: Dataset) -> list[Mistake]:
    mistakes = []
    for index in worst_mistakes(evaluation, MISTAKES).tolist():
        probabilities = evaluation.probabilities[index]
        true, predicted = int(evaluation.labels[index]), int(probabilities.argmax())
        mistakes.append(
            Mistake(
                title=dataset.title(index),
                image=_thumbnail(dataset, index),
                true=evaluation.classes[true],
                predicted=evaluation.classes[predicted],
                confidence=100 * float(probabilities[predicted]),
                of_true=100 * float(probabilities[true]),
            )
        )
    return mistakes


def _thumbnail(dataset: Dataset, index: int) -> str:
    file = io.BytesIO()
    ImageOps.contain(dataset.image(index), (THUMBNAIL, THUMBNAIL)).save(file, "JPEG", quality=85)
    return _data_uri("image/jpeg", file.getvalue())


def _class_lines(evaluation: Evaluation) -> list[ClassLine]:
    """The least recognised first; those without images at the end."""
    accuracy = per_class_accuracy(evaluation)
    images = np.bincount(evaluation.labels, minlength=len(evaluation.classes))
    return [
        ClassLine(evaluation.classes[i], int(images[i]), 100 * float(accuracy[i]) if images[i] else None)
        for i in np.argsort(accuracy, kind="stable")  # NaN comes last
    ]


def environment() -> Pairs:
    found = [("system", platform.platform()), ("CPU", f"{platform.machine()}, {usable_cores()} cores")]
    if torch.cuda.is_available():
        found.append(("GPU", torch.cuda.get_device_name()))
    found.append(("python", platform.python_version()))
    for package in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found.append((package, importlib.metadata.version(package)))
    return found


def _data_uri(media_type: str, content: bytes) -> str:
    return f"data:{media_type};base64,{base64.b64encode(content).decode()}"
