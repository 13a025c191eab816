"""The first export gate: ONNX Runtime must compute what the PyTorch network computes."""

from __future__ import annotations

import copy

import numpy as np
import torch

from model_export.drawings.samples import sample_images
from model_export.errors import CheckFailed
from model_export.nets.serving_graph import ServingGraph
from service.runtime.engine import Engine
from service.runtime.graph import OUTPUTS
from service.runtime.model_card import Parity
from service.runtime.preprocessing import Preprocessing
from service.runtime.self_test import SelfTest

# Serving starts with 1, 3 is not a power of two, 8 is the default largest batch.
BATCH_SIZES = (1, 2, 3, 8)

# Allowed difference of an output from the network in float64, in multiples of the difference that float32 rounding
# makes in PyTorch. ONNX Runtime's is 0.7 to 1.5 times that on every network of the paper; a wrong kernel is off by
# thousands.
MULTIPLE = 8

# Difference that is always allowed, relative to the output's range: in PyTorch, rounding may happen to cancel out.
FLOOR = 1e-5

SELF_TEST_IMAGES = 4  # the first of the images; stored with their exact answers for the service's self-test


class ParityFailed(CheckFailed):
    """The exported file does not compute what the network computes; nothing is published."""


def torch_answers(graph: ServingGraph, images: np.ndarray) -> tuple[np.ndarray, ...]:
    """What PyTorch computes for uint8 `(N, 3, H, W)`, in the precision of the graph and the order of `OUTPUTS`."""
    with torch.inference_mode():
        return tuple(output.numpy() for output in graph(torch.from_numpy(images)))


def exact_answers(graph: ServingGraph, images: np.ndarray) -> tuple[np.ndarray, ...]:
    """The same in float64, whose rounding is negligible beside that of float32."""
    return torch_answers(copy.deepcopy(graph).double(), images)


def largest_difference(actual: np.ndarray, expected: np.ndarray) -> float:
    return float(np.abs(actual - expected).max())


def agreement(actual: np.ndarray, expected: np.ndarray, k: int) -> float:
    """The share of rows in two arrays of logits `(N, classes)` that have the same set of `k` best classes."""
    best = [np.sort(np.argsort(-logits, axis=1, kind="stable")[:, :k], axis=1) for logits in (actual, expected)]
    return float((best[0] == best[1]).all(axis=1).mean())


class Reference:
    """PyTorch's answers to the sample images.

    Attributes:
        images: uint8 `(N, channels, height, width)`.
        exact: the outputs in float64, in the order of `OUTPUTS`.
        rounded: the outputs in float32, in the same order.
    """

    def __init__(self, graph: ServingGraph, preprocessing: Preprocessing) -> None:
        self.images = sample_images(max(sum(BATCH_SIZES[:-1]), BATCH_SIZES[-1]), preprocessing)
        self.exact, self.rounded = exact_answers(graph, self.images), torch_answers(graph, self.images)


def check_parity(reference: Reference, engine: Engine) -> Parity:
    """Compares every output at every batch size of `BATCH_SIZES` with the exact answers.

    Raises:
        ParityFailed: an output differs from them by more than rounding explains.
    """
    # The small batches hold different images; the largest batch holds all of them again.
    starts = (*np.cumsum((0, *BATCH_SIZES[:-2])), 0)
    parts = [slice(start, start + size) for start, size in zip(starts, BATCH_SIZES, strict=True)]
    answers = [engine.infer(reference.images[part], OUTPUTS) for part in parts]
    for i, output in enumerate(OUTPUTS):
        exact = reference.exact[i]
        scale = float(np.ptp(exact))
        rounding = largest_difference(reference.rounded[i], exact)
        allowed = max(FLOOR * scale, MULTIPLE * rounding)
        for part, answer in zip(parts, answers, strict=True):
            difference = largest_difference(answer[output], exact[part])
            if not difference <= allowed:  # true for NaN too
                raise ParityFailed(
                    f"at batch {len(answer[output])}, {output} in ONNX Runtime is {difference:.3g} away from the "
                    f"network in float64; PyTorch in float32 is {rounding:.3g} away, and {allowed:.3g} is allowed (the "
                    f"output's range is {scale:.3g}). Nothing was published."
                )
    logits = np.concatenate([answer["logits"] for answer in answers])
    expected = np.concatenate([reference.rounded[0][part] for part in parts])
    return Parity(
        batch_sizes=BATCH_SIZES,
        max_abs_difference=largest_difference(logits, expected),
        top1_agreement=agreement(logits, expected, 1),
        top5_agreement=agreement(logits, expected, 5),
    )


def make_self_test(reference: Reference) -> SelfTest:
    """The images and exact logits against which every server checks itself."""
    exact, rounded = (outputs[0][:SELF_TEST_IMAGES] for outputs in (reference.exact, reference.rounded))
    rounding = largest_difference(rounded, exact) / float(np.ptp(exact))
    return SelfTest(reference.images[:SELF_TEST_IMAGES], exact.astype(np.float32), rounding)
