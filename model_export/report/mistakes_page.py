"""The hardest mistakes of an evaluation as one HTML file, with embedded pictures, without scripts."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np

from model_export.datasets.base import Dataset
from model_export.evaluation.metrics import top_k_accuracy, worst_mistakes
from model_export.evaluation.result import Evaluation
from model_export.report.page import thumbnail, write_page

MOST = 200  # images shown: about 3 MB
SIDE = 224  # longer side of a picture, pixels
ANSWERS = 3  # classes shown for each, besides the label


class Answer(NamedTuple):
    """A class that the model gave a probability."""

    name: str
    probability: float  # percent
    right: bool


class HardMistake(NamedTuple):
    """A wrongly predicted image."""

    title: str
    image: str  # data URI
    true: str
    answers: list[Answer]  # the most probable first; the label is one of them


def write_mistakes(path: Path, evaluation: Evaluation, dataset: Dataset) -> None:
    """Writes the page atomically.

    Args:
        evaluation: the model's predictions, at least one.
        dataset: the evaluated data set.

    Raises:
        ImageFault: an image is broken.
        OSError: an image is missing, or the page cannot be written.
    """
    wrong = int((evaluation.probabilities.argmax(axis=1) != evaluation.labels).sum())
    write_page(
        path,
        "mistakes.html",
        title="Hardest mistakes",
        evaluation=evaluation,
        headline=[
            ("mistakes", f"{wrong:,}"),
            ("images", f"{len(evaluation.labels):,}"),
            ("top-1 accuracy", f"{100 * top_k_accuracy(evaluation, 1):.2f}%"),
        ],
        mistakes=[_mistake(evaluation, dataset, index) for index in worst_mistakes(evaluation, MOST).tolist()],
        wrong=wrong,
    )


def _mistake(evaluation: Evaluation, dataset: Dataset, index: int) -> HardMistake:
    probabilities, true = evaluation.probabilities[index], int(evaluation.labels[index])
    shown = np.argsort(-probabilities, kind="stable")[:ANSWERS].tolist()
    if true not in shown:
        shown.append(true)
    answers = [Answer(evaluation.classes[i], 100 * float(probabilities[i]), i == true) for i in shown]
    return HardMistake(dataset.title(index), thumbnail(dataset, index, SIDE), evaluation.classes[true], answers)
