"""The gate before publication: a file of lower precision must answer as the fp32 file does."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from model_export.datasets.base import Dataset
from model_export.errors import CheckFailed, InputError
from model_export.evaluation.answers import answers as answers_of
from model_export.evaluation.answers import same_answers
from model_export.evaluation.evaluate import class_ids
from model_export.evaluation.predictors import OnnxPredictor, Predictor
from model_export.quantise.images import batches
from service.runtime.choices import Precision, ProviderName
from service.runtime.engine import DynamicEngine, Engine
from service.runtime.machine import usable_cores
from service.runtime.model_card import Gate
from service.runtime.progress import Progress
from service.runtime.providers import ProviderUnavailable, open_session, unwanted_precision
from service.runtime.self_test import SelfTest

log = logging.getLogger(__name__)

BATCH = 8
ROUNDING = 1e-9  # in comparisons of fractions: 1 - 0.99 is slightly more than 0.01

# The providers that serve a file of this precision. The gate compares on all that this machine has.
SERVED_BY: dict[Precision, tuple[ProviderName, ...]] = {
    "int8": ("openvino", "cpu"),
    "fp16": ("cuda",),
    "bf16": ("openvino",),
}


class GateFailed(CheckFailed):
    """The file of lower precision loses more than the limit; nothing is published."""


class Comparison(NamedTuple):
    """A file of lower precision on one provider, compared with the fp32 file on the CPU provider. Fractions."""

    provider: ProviderName
    top1_agreement: float
    accuracy_lost: float | None  # None without labels


def open_engines(path: Path, precision: Precision, stored: SelfTest, *, rounded: Path | None = None) -> list[Engine]:
    """A lower precision on each provider here that would serve it, after the stored self-test has passed.

    Without a GPU, fp16 is compared on the CPU provider, which has no fp16 arithmetic: it converts every weight and
    activation to fp32. That still shows what the rounding does. So does a graph that rounds to bf16, without a CPU that
    has it.

    Args:
        path: the file that the precision is computed from.
        rounded: the file for the CPU provider, if it is another.

    Raises:
        SelfTestFailed: an engine gives wrong answers.
        ProviderUnavailable: no provider runs the file.
    """
    engines: list[Engine] = []
    for provider in SERVED_BY[precision]:
        try:
            if reason := unwanted_precision(provider, precision):
                raise ProviderUnavailable(reason)
            engines.append(DynamicEngine.of(open_session(path, provider, precision, threads=usable_cores())))
        except ProviderUnavailable as error:
            log.info("%s is not compared on %s: %s", precision, provider, error)
    if not engines:
        log.info("%s is compared on the CPU provider instead", precision)
        session = open_session(rounded or path, "cpu", threads=usable_cores())
        engines = [DynamicEngine.of(session._replace(precision=precision))]
    for engine in engines:
        engine.self_test(stored)
    return engines


def images_needed(limit: float) -> int:
    """The images it takes to measure a limit: with N images, one is 1/N.

    Args:
        limit: a fraction in [0, 1]. No number of images proves a limit of 0; it asks for a hundred, as 0.01 does.
    """
    return int(np.ceil(1 / limit - ROUNDING)) if limit else 100


def check_enough(dataset: Dataset, limit: float) -> None:
    """Raises InputError if the data set has too few images for the limit."""
    if len(dataset) < (needed := images_needed(limit)):
        raise InputError(
            f"{dataset.name} has {len(dataset)} images to compare on, too few to measure a limit of {100 * limit:g} "
            f"points: give at least {needed}, or a higher --limit"
        )


def compare(fp32: OnnxPredictor, engines: Sequence[Engine], dataset: Dataset) -> list[Comparison]:
    """Runs every image of a data set on the fp32 model and on each engine.

    Multi-label models are compared by agreement only: an image counts if all of its present classes are the same.

    Raises:
        InputError: an image is broken or missing.
    """
    ids = _class_ids_if_known(dataset, fp32)
    answers: list[list[np.ndarray]] = [[] for _ in (fp32, *engines)]
    with Progress(f"comparing with fp32 on {dataset.name}", len(dataset), unit="image") as progress:
        for batch in batches(dataset, fp32.preprocessing, BATCH):
            for engine, predicted in zip((fp32.engine, *engines), answers, strict=True):
                predicted.append(answers_of(engine.infer(batch)["logits"], fp32.head, fp32.temperature))
            progress.advance(len(batch))
    expected, *others = (np.concatenate(predicted) for predicted in answers)
    labels = None if ids is None else ids[dataset.labels]
    comparisons = []
    for engine, found in zip(engines, others, strict=True):
        lost = None if labels is None else same_answers(expected, labels) - same_answers(found, labels)
        comparisons.append(Comparison(engine.info.provider, same_answers(found, expected), lost))
    return comparisons


def judge(comparisons: Sequence[Comparison], dataset: Dataset, limit: float) -> Gate:
    """The worst of several comparisons, for the card.

    Args:
        limit: of accuracy lost, or without labels of disagreement; a fraction in [0, 1].

    Raises:
        GateFailed: the worst loses more than the limit.
    """
    agreement = min(comparison.top1_agreement for comparison in comparisons)
    losses = [comparison.accuracy_lost for comparison in comparisons if comparison.accuracy_lost is not None]
    lost = max(losses, default=None)
    if (1 - agreement if lost is None else lost) > limit + ROUNDING:
        raise GateFailed(
            f"on {len(dataset)} images of {dataset.name}, more was lost than the {100 * limit:g} points allowed "
            f"({'; '.join(map(describe, comparisons))})"
        )
    return Gate(dataset=dataset.name, images=len(dataset), top1_agreement=agreement, accuracy_lost=lost, limit=limit)


def describe(comparison: Comparison) -> str:
    """The comparison in one line."""
    lost = comparison.accuracy_lost
    accuracy = "" if lost is None else f", {100 * lost:.2f} points of accuracy lost"
    return f"{comparison.provider}: {100 * comparison.top1_agreement:.2f} % top-1 agreement{accuracy}"


def _class_ids_if_known(dataset: Dataset, model: Predictor) -> np.ndarray | None:
    """As `class_ids`; None, with a log line, if there are no labels, the model does not know them or is multi-label."""
    if model.head.multi_label or dataset.multi_label:
        log.info("with several labels for an image, only agreement with fp32 is measured")
        return None
    if not dataset.classes:
        log.info("%s has no labels: only agreement with fp32 is measured", dataset.name)
        return None
    try:
        return class_ids(dataset, model)
    except InputError as error:
        log.warning("only agreement with fp32 is measured: %s", error)
        return None
