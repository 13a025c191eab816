"""The gate between an exported file and its publication: ONNX Runtime must answer as PyTorch does."""

from __future__ import annotations

import numpy as np
import torch

from model_export.drawings import pixels
from model_export.onnx_export import ServingGraph
from service.card import Parity, Preprocessing, SelfTest
from service.engine import OUTPUTS, Engine

# 1 is what serving starts with, 3 is no power of two, 8 is the largest batch by default.
BATCH_SIZES = (1, 2, 3, 8)

# Largest difference of any output, relative to that output's range (fp32; ResNets measure 1e-6 to 1e-5).
TOLERANCE = 1e-4

# Of the images that are shown to both, how many are stored with PyTorch's answers for the service's own check.
SELF_TEST_IMAGES = 4


class ParityFailed(Exception):
    """The exported file does not compute what the network computes; nothing is published."""


def sample_images(count: int, preprocessing: Preprocessing) -> np.ndarray:
    """Drawn pictures through the service's preprocessing: uint8 `(count, 3, crop, crop)`. Always the same ones."""
    return np.stack([pixels(0, i, preprocessing) for i in range(count)])


def torch_answers(graph: ServingGraph, images: np.ndarray) -> tuple[np.ndarray, ...]:
    """What PyTorch computes in fp32, in the order of `OUTPUTS`."""
    with torch.inference_mode():
        return tuple(output.numpy() for output in graph(torch.from_numpy(images)))


def agreement(ours: np.ndarray, theirs: np.ndarray, k: int) -> float:
    """The share of rows of two arrays of logits `(N, classes)` whose `k` best classes are the same set."""
    best = [np.sort(np.argsort(-logits, axis=1, kind="stable")[:, :k], axis=1) for logits in (ours, theirs)]
    return float((best[0] == best[1]).all(axis=1).mean())


def check_parity(graph: ServingGraph, engine: Engine, preprocessing: Preprocessing) -> Parity:
    """Compares every output at every batch size of `BATCH_SIZES`, on different images each.

    Raises:
        ParityFailed: an output differs by more than `TOLERANCE` of its range, or a top-1 class differs.
    """
    images = sample_images(sum(BATCH_SIZES), preprocessing)
    ours, theirs = [], []
    largest = 0.0
    for start, size in zip(np.cumsum((0, *BATCH_SIZES)), BATCH_SIZES, strict=False):
        batch = images[start : start + size]
        expected = dict(zip(OUTPUTS, torch_answers(graph, batch), strict=True))
        found = engine.infer(batch, OUTPUTS)
        for output in OUTPUTS:
            difference = float(np.abs(found[output] - expected[output]).max())
            relative = difference / max(float(np.ptp(expected[output])), 1e-12)
            if not relative <= TOLERANCE:  # also when it is not a number
                raise ParityFailed(
                    f"at batch {size}, {output} differs from PyTorch's by {difference:.3g}, {relative:.2g} of its "
                    f"range; {TOLERANCE} is allowed. Nothing was published."
                )
        largest = max(largest, float(np.abs(found["logits"] - expected["logits"]).max()))
        ours.append(found["logits"])
        theirs.append(expected["logits"])
    top1, top5 = (agreement(np.concatenate(ours), np.concatenate(theirs), k) for k in (1, 5))
    if top1 < 1:
        raise ParityFailed(f"only {top1:.1%} of the top-1 classes are PyTorch's. Nothing was published.")
    return Parity(batch_sizes=BATCH_SIZES, max_abs_difference=largest, top1_agreement=top1, top5_agreement=top5)


def make_self_test(graph: ServingGraph, preprocessing: Preprocessing) -> SelfTest:
    """Inputs and PyTorch's answers, for a server to prove itself with."""
    images = sample_images(SELF_TEST_IMAGES, preprocessing)
    return SelfTest(images, torch_answers(graph, images)[OUTPUTS.index("logits")])
