"""The gate between a file of lower precision and its publication: it must answer as the fp32 file does."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import NamedTuple

import numpy as np

from model_export.datasets.base import Dataset
from model_export.errors import InputError
from model_export.evaluation.evaluating import class_ids
from model_export.evaluation.predictors import OnnxPredictor, Predictor
from model_export.progress import Progress
from model_export.quantise.images import batches
from service.card import Gate, Precision, SelfTest
from service.engine import DynamicEngine, Engine
from service.providers import ProviderName, ProviderUnavailable, open_session, unwanted_precision, usable_cores

log = logging.getLogger(__name__)

BATCH = 8

# Where a file of a precision serves. With all of these the gate compares what is there.
SERVED_BY: dict[Precision, tuple[ProviderName, ...]] = {"int8": ("openvino", "cpu"), "fp16": ("cuda",)}


class GateFailed(Exception):
    """The file of lower precision loses more than was allowed; nothing is published."""


class Comparison(NamedTuple):
    """What one provider makes of a file, beside the fp32 file on the CPU provider. Shares in [0, 1]."""

    provider: ProviderName
    top1_agreement: float
    accuracy_lost: float | None  # None without labels


def engines(path: Path, precision: Precision, stored: SelfTest) -> list[Engine]:
    """A file of lower precision on every provider here that it would serve on, proven with the stored self-test.

    ONNX Runtime's CPU provider has no fp16 and computes such a file by converting every weight and activation: where no
    GPU is, that still tells what the rounding does.

    Raises:
        SelfTestFailed: one computes wrong answers.
        ProviderUnavailable: none runs it.
    """
    found: list[Engine] = []
    for provider in SERVED_BY[precision]:
        try:
            if reason := unwanted_precision(provider, precision):
                raise ProviderUnavailable(reason)
            found.append(DynamicEngine(open_session(path, provider, precision, threads=usable_cores())))
        except ProviderUnavailable as error:
            log.info("%s is not judged on %s: %s", precision, provider, error)
    if not found:
        log.info("%s is judged on the CPU provider instead", precision)
        session = open_session(path, "cpu", threads=usable_cores())
        found = [DynamicEngine(session._replace(compute=precision))]
    for engine in found:
        engine.self_test(stored)
    return found


def images_needed(limit: float) -> int:
    """How many images tell whether a limit is kept: of N, one is 1/N.

    Args:
        limit: a fraction in [0, 1]; 0, of which no number is proof, asks for as many as a hundredth.
    """
    return int(np.ceil(1 / limit - 1e-9)) if limit else 100


def check_enough(dataset: Dataset, limit: float) -> None:
    """Raises InputError where there are too few images for the limit."""
    if len(dataset) < (needed := images_needed(limit)):
        raise InputError(
            f"{dataset.name} has {len(dataset)} images to judge by, which cannot tell a limit of {100 * limit:g} "
            f"points: give at least {needed}, or a higher --limit"
        )


def compare(fp32: OnnxPredictor, others: list[Engine], dataset: Dataset) -> list[Comparison]:
    """Shows every image of a data set to all.

    Raises:
        InputError: an image is broken.
    """
    known = _known(dataset, fp32)
    answers: list[list[np.ndarray]] = [[] for _ in (fp32, *others)]
    with Progress(f"comparing with fp32 on {dataset.name}", len(dataset), unit="image") as progress:
        for batch in batches(dataset, fp32.preprocessing, BATCH):
            for engine, found in zip((fp32.engine, *others), answers, strict=True):
                found.append(engine.infer(batch)["logits"].argmax(axis=1))
            progress.advance(len(batch))
    expected, *rest = (np.concatenate(found) for found in answers)
    truth = None if known is None else known[dataset.labels]
    comparisons = []
    for engine, classes in zip(others, rest, strict=True):
        lost = None if truth is None else share(expected == truth) - share(classes == truth)
        comparisons.append(Comparison(engine.provider, share(classes == expected), lost))
    return comparisons


def share(true: np.ndarray) -> float:
    """The share of `True` in bool (N,)."""
    return float(np.mean(true))


def _known(dataset: Dataset, model: Predictor) -> np.ndarray | None:
    """The model's id of each class; None, with a word, where there are no labels or the model does not know them."""
    if not dataset.classes:
        log.info("%s has no labels: only agreement with fp32 is measured", dataset.name)
        return None
    try:
        return class_ids(dataset, model)
    except InputError as error:
        log.warning("only agreement with fp32 is measured: %s", error)
        return None


def passed(comparisons: list[Comparison], dataset: Dataset, limit: float) -> Gate:
    """The worst of several comparisons, for the card.

    Raises:
        GateFailed: it is worse than the limit.
    """
    agreement = min(comparison.top1_agreement for comparison in comparisons)
    losses = [comparison.accuracy_lost for comparison in comparisons if comparison.accuracy_lost is not None]
    lost = max(losses, default=None)
    if (1 - agreement if lost is None else lost) > limit + 1e-9:  # (1 - 0.99 is a little more than 0.01)
        by_provider = "; ".join(map(described, comparisons))
        raise GateFailed(
            f"on {len(dataset)} images of {dataset.name} more was lost than the {100 * limit:g} points allowed "
            f"({by_provider})"
        )
    return Gate(dataset=dataset.name, images=len(dataset), top1_agreement=agreement, accuracy_lost=lost, limit=limit)


def described(comparison: Comparison) -> str:
    """In one line, for people."""
    lost = comparison.accuracy_lost
    accuracy = "" if lost is None else f", {100 * lost:.2f} points of accuracy lost"
    return f"{comparison.provider}: {100 * comparison.top1_agreement:.2f} % top-1 agreement{accuracy}"
