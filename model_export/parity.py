"""The gate between an exported file and its publication: ONNX Runtime must answer as PyTorch does."""

from __future__ import annotations

import copy

import numpy as np
import torch

from model_export.drawings import pixels
from model_export.onnx_export import ServingGraph
from service.card import Parity, Preprocessing, SelfTest
from service.engine import OUTPUTS, Engine

# 1 is what serving starts with, 3 is no power of two, 8 is the largest batch by default.
BATCH_SIZES = (1, 2, 3, 8)

# How far an output may be from the network in float64, in multiples of how far PyTorch's own float32 is. ONNX Runtime's
# is 0.7 to 1.5 times as far on every network of the paper; a wrong kernel is off by thousands.
MULTIPLE = 8

# ... and what is always allowed, relative to the output's range: rounding may happen to cancel out in PyTorch.
FLOOR = 1e-5

# Of the images that are shown to both, how many are stored with PyTorch's answers for the service's own check.
SELF_TEST_IMAGES = 4


class ParityFailed(Exception):
    """The exported file does not compute what the network computes; nothing is published."""


def sample_images(count: int, preprocessing: Preprocessing) -> np.ndarray:
    """Drawn pictures through the service's preprocessing: uint8 `(count, 3, crop, crop)`. Always the same ones."""
    return np.stack([pixels(0, i, preprocessing) for i in range(count)])


def torch_answers(graph: ServingGraph, images: np.ndarray) -> tuple[np.ndarray, ...]:
    """What PyTorch computes in the precision of the graph, in the order of `OUTPUTS`."""
    with torch.inference_mode():
        return tuple(output.numpy() for output in graph(torch.from_numpy(images)))


def exact_answers(graph: ServingGraph, images: np.ndarray) -> tuple[np.ndarray, ...]:
    """What the network computes in float64, in the order of `OUTPUTS`: beside float32, without rounding."""
    return torch_answers(copy.deepcopy(graph).double(), images)


def largest_difference(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.abs(found - expected).max())


def agreement(ours: np.ndarray, theirs: np.ndarray, k: int) -> float:
    """The share of rows of two arrays of logits `(N, classes)` whose `k` best classes are the same set."""
    best = [np.sort(np.argsort(-logits, axis=1, kind="stable")[:, :k], axis=1) for logits in (ours, theirs)]
    return float((best[0] == best[1]).all(axis=1).mean())


def check_parity(graph: ServingGraph, engine: Engine, preprocessing: Preprocessing) -> Parity:
    """Compares every output at every batch size of `BATCH_SIZES`, on different images each, with the exact answers.

    Raises:
        ParityFailed: an output is further from them than rounding explains.
    """
    images = sample_images(sum(BATCH_SIZES), preprocessing)
    exact, theirs = exact_answers(graph, images), torch_answers(graph, images)
    batches = np.split(images, np.cumsum(BATCH_SIZES)[:-1])
    answers = [engine.infer(batch, OUTPUTS) for batch in batches]
    for i, output in enumerate(OUTPUTS):
        scale = float(np.ptp(exact[i]))
        rounding = largest_difference(theirs[i], exact[i])
        allowed = max(FLOOR * scale, MULTIPLE * rounding)
        expected = np.split(exact[i], np.cumsum(BATCH_SIZES)[:-1])
        for size, answer, of_batch in zip(BATCH_SIZES, answers, expected, strict=True):
            difference = largest_difference(answer[output], of_batch)
            if not difference <= allowed:  # also when it is not a number
                raise ParityFailed(
                    f"at batch {size}, {output} is {difference:.3g} away from what the network computes in float64, "
                    f"where PyTorch in float32 is {rounding:.3g} away and {allowed:.3g} is allowed (its range is "
                    f"{scale:.3g}). Nothing was published."
                )
    logits = np.concatenate([answer["logits"] for answer in answers])
    return Parity(
        batch_sizes=BATCH_SIZES,
        max_abs_difference=largest_difference(logits, theirs[0]),
        top1_agreement=agreement(logits, theirs[0], 1),
        top5_agreement=agreement(logits, theirs[0], 5),
    )


def make_self_test(graph: ServingGraph, preprocessing: Preprocessing) -> SelfTest:
    """Inputs and the exact answers, for a server to prove itself with."""
    images = sample_images(SELF_TEST_IMAGES, preprocessing)
    (exact, *_), (theirs, *_) = exact_answers(graph, images), torch_answers(graph, images)
    return SelfTest(images, exact.astype(np.float32), largest_difference(theirs, exact) / float(np.ptp(exact)))
