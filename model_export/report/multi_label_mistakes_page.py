"""The hardest mistakes of a multi-label model as one HTML file, with embedded pictures, without scripts."""

from __future__ import annotations

from itertools import groupby
from pathlib import Path
from typing import NamedTuple

import numpy as np

from model_export.datasets.base import Dataset
from model_export.evaluation.multi_label import MultiLabelEvaluation, micro_f1
from model_export.report.mistakes_page import ANSWERS, MOST, SIDE, Answer
from model_export.report.page import thumbnail, write_page


class WrongAnswer(NamedTuple):
    """A class that one image has and the model does not name, or the other way round."""

    class_id: int
    image: int
    missed: bool


class HardMistake(NamedTuple):
    """A wrong answer with its picture."""

    title: str
    image: str  # data URI
    missed: bool
    answers: list[Answer]  # the class first, then the most probable ones; those in the labels are right


class ClassMistakes(NamedTuple):
    """The hardest mistakes of a class: those that it was missed in first, the surest first."""

    name: str
    missed: int  # all, shown or not
    too_many: int
    shown: list[HardMistake]


def write_multi_label_mistakes(path: Path, evaluation: MultiLabelEvaluation, dataset: Dataset) -> None:
    """Writes the page atomically. Arguments and errors as of `mistakes_page.write_mistakes`."""
    missed = (evaluation.present & ~evaluation.answered).sum(axis=0)
    too_many = (evaluation.answered & ~evaluation.present).sum(axis=0)
    shown = hardest(evaluation, MOST)
    classes = [
        ClassMistakes(
            evaluation.classes[class_id],
            int(missed[class_id]),
            int(too_many[class_id]),
            [_mistake(evaluation, dataset, wrong) for wrong in group],
        )
        for class_id, group in groupby(shown, key=lambda wrong: wrong.class_id)
    ]
    wrong = int(missed.sum() + too_many.sum())
    write_page(
        path,
        "multi_label_mistakes.html",
        title="Hardest mistakes",
        evaluation=evaluation,
        headline=[
            ("classes missed", f"{missed.sum():,}"),
            ("classes named wrongly", f"{too_many.sum():,}"),
            ("images", f"{len(evaluation.present):,}"),
            ("micro F1", f"{100 * micro_f1(evaluation):.2f}%"),
        ],
        classes=classes,
        shown=len(shown),
        wrong=wrong,
    )


def hardest(evaluation: MultiLabelEvaluation, count: int) -> list[WrongAnswer]:
    """At most `count` wrong answers, by class; of a class those that miss it first, the surest first.

    Every class gets its surest ones of both kinds before any gets more: a frequent class leaves room for the others.
    """
    ranked = []
    for class_id in range(len(evaluation.classes)):
        probabilities = evaluation.probabilities[:, class_id]
        present, answered = evaluation.present[:, class_id], evaluation.answered[:, class_id]
        for missed, images, surest in (
            (True, np.flatnonzero(present & ~answered), probabilities),
            (False, np.flatnonzero(answered & ~present), -probabilities),
        ):
            order = images[np.argsort(surest[images], kind="stable")][:count]
            ranked += [(rank, WrongAnswer(class_id, image, missed)) for rank, image in enumerate(order.tolist())]
    first = sorted(ranked, key=lambda entry: entry[0])[:count]
    return [wrong for _, wrong in sorted(first, key=lambda entry: (entry[1].class_id, not entry[1].missed, entry[0]))]


def _mistake(evaluation: MultiLabelEvaluation, dataset: Dataset, wrong: WrongAnswer) -> HardMistake:
    probabilities, present = evaluation.probabilities[wrong.image], evaluation.present[wrong.image]
    others = [i for i in np.argsort(-probabilities, kind="stable").tolist() if i != wrong.class_id]
    answers = [
        Answer(evaluation.classes[i], 100 * float(probabilities[i]), bool(present[i]))
        for i in (wrong.class_id, *others[:ANSWERS])
    ]
    title, picture = dataset.title(wrong.image), thumbnail(dataset, wrong.image, SIDE)
    return HardMistake(title, picture, wrong.missed, answers)
