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


class Reference:
    """A network's answers to pictures, exact and as PyTorch rounds them.

    Attributes:
        images: uint8 `(N, 3, crop, crop)`.
        exact, theirs: in the order of `OUTPUTS`; float64 and float32.
    """

    def __init__(self, graph: ServingGraph, preprocessing: Preprocessing) -> None:
        self.images = sample_images(max(sum(BATCH_SIZES[:-1]), BATCH_SIZES[-1]), preprocessing)
        self.exact, self.theirs = exact_answers(graph, self.images), torch_answers(graph, self.images)


def check_parity(reference: Reference, engine: Engine) -> Parity:
    """Compares every output at every batch size of `BATCH_SIZES` with the exact answers.

    Raises:
        ParityFailed: an output is further from them than rounding explains.
    """
    # small batches of different images, and the largest batch of them all
    starts = (*np.cumsum((0, *BATCH_SIZES[:-2])), 0)
    parts = [slice(start, start + size) for start, size in zip(starts, BATCH_SIZES, strict=True)]
    answers = [engine.infer(reference.images[part], OUTPUTS) for part in parts]
    for i, output in enumerate(OUTPUTS):
        exact = reference.exact[i]
        scale = float(np.ptp(exact))
        rounding = largest_difference(reference.theirs[i], exact)
        allowed = max(FLOOR * scale, MULTIPLE * rounding)
        for part, answer in zip(parts, answers, strict=True):
            difference = largest_difference(answer[output], exact[part])
            if not difference <= allowed:  # also when it is not a number
                raise ParityFailed(
                    f"at batch {len(answer[output])}, {output} is {difference:.3g} away from what the network computes "
                    f"in float64, where PyTorch in float32 is {rounding:.3g} away and {allowed:.3g} is allowed (its "
                    f"range is {scale:.3g}). Nothing was published."
                )
    logits = np.concatenate([answer["logits"] for answer in answers])
    theirs = np.concatenate([reference.theirs[0][part] for part in parts])
    return Parity(
        batch_sizes=BATCH_SIZES,
        max_abs_difference=largest_difference(logits, theirs),
        top1_agreement=agreement(logits, theirs, 1),
        top5_agreement=agreement(logits, theirs, 5),
    )


def make_self_test(reference: Reference) -> SelfTest:
    """Inputs and the exact answers, for a server to prove itself with."""
    exact, theirs = (answers[0][:SELF_TEST_IMAGES] for answers in (reference.exact, reference.theirs))
    rounding = largest_difference(theirs, exact) / float(np.ptp(exact))
    return SelfTest(reference.images[:SELF_TEST_IMAGES], exact.astype(np.float32), rounding)
