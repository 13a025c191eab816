"""The ranges of activations for int8, measured by running images through the fp32 graph.

ONNX Runtime's own calibrators do the same, but their histograms either hold all activations of a run in memory or use
bins whose width the first batch decides, and their search for the least divergence takes minutes in pure Python.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx
from onnx import ModelProto, helper

from model_export.evaluation.sessions import open_graph
from service.runtime.graph import INPUT
from service.runtime.model_card import CalibrationMethod

# The operators in int8. With the additions of the shortcuts among them, nothing between the first convolution and the
# last feature map returns to float.
OPERATORS = ("Conv", "Gemm", "Add", "Relu", "MaxPool")

BINS = 2048  # of a histogram of absolute values, as in TensorRT and NVIDIA's pytorch-quantization
SMOOTH = 1e-4  # least share of a compared bin, as in MXNet: an empty bin would make the divergence infinite
STRIDE = 8  # bins between compared thresholds
PERCENTILE = 99.999  # of absolute values, as in ONNX Runtime
BATCH = 2  # images whose activations are in memory at once; ResNet-152 takes 0.2 GB for each


class Range(NamedTuple):
    """The range of one activation; includes 0."""

    low: float
    high: float


def activation_ranges(
    fp32: Path, images: np.ndarray, method: CalibrationMethod, advance: Callable[[int], None]
) -> dict[str, Range]:
    """The range of every activation that int8 rounds, by name.

    Args:
        images: uint8 (N, channels, height, width).
        method: minmax: all values. percentile: all but the outermost hundred-thousandth of the absolute values.
            entropy: the range that loses the least information (`least_divergence`).
        advance: called with the number of images done, N in total for minmax, 2N for the others.
    """
    model = onnx.load(fp32)
    names = activation_names(model)
    low, high = (dict.fromkeys(names, 0.0) for _ in range(2))
    for activations in _run(model, names, images, advance):
        for name, values in activations.items():
            low[name] = min(low[name], float(values.min()))
            high[name] = max(high[name], float(values.max()))
    if method == "minmax":
        return _with_relu_inputs(model, {name: Range(low[name], high[name]) for name in names})

    largest = {name: max(-low[name], high[name], 1e-30) for name in names}
    counts = {name: np.zeros(BINS, np.int64) for name in names}
    for activations in _run(model, names, images, advance):
        for name, values in activations.items():
            counts[name] += np.histogram(np.abs(values), BINS, (0, largest[name]))[0]
    ranges = {}
    for name in names:
        if method == "percentile":
            bins = int(np.searchsorted(np.cumsum(counts[name]), PERCENTILE / 100 * counts[name].sum())) + 1
        else:
            bins = least_divergence(counts[name], levels=128 if low[name] < 0 else 256)
        threshold = largest[name] * bins / BINS
        ranges[name] = Range(max(low[name], -threshold), min(high[name], threshold))
    return _with_relu_inputs(model, ranges)


def activation_names(model: ModelProto) -> list[str]:
    """Inputs and outputs of the operators in int8, without constants and without the inputs of Relus."""
    constants = {constant.name for constant in model.graph.initializer}
    nodes = [node for node in model.graph.node if node.op_type in OPERATORS]
    names = dict.fromkeys(name for node in nodes for name in (*node.input, *node.output) if name not in constants)
    relu_inputs = {node.input[0] for node in nodes if node.op_type == "Relu"}
    return [name for name in names if name not in relu_inputs]


def least_divergence(counts: np.ndarray, levels: int) -> int:
    """How many bins of a histogram of absolute values to keep, so that the least information is lost.

    For each number of bins, two histograms are compared by the Kullback-Leibler divergence: the one with everything
    beyond counted into its last bin, and the one that `levels` steps can represent (Migacz, "8-bit inference with
    TensorRT", 2017).

    Args:
        counts: int64 (bins,), more bins than `levels`.
    """
    counts = counts.astype(np.float64)
    counts[0] = counts[1]  # zeros, half of a ReLU's output, are exact in every range
    best, least = len(counts), np.inf
    for kept in range(levels, len(counts) + 1, STRIDE):
        inside = counts[:kept]
        filled = inside > 0
        starts = np.arange(levels) * kept // levels
        sums, bins = np.add.reduceat(inside, starts), np.add.reduceat(filled.astype(np.float64), starts)
        widths = np.diff(starts, append=kept)
        coarse = np.repeat(np.divide(sums, bins, out=np.zeros(levels), where=bins > 0), widths)
        clipped = inside.copy()
        clipped[-1] += counts[kept:].sum()
        compared = clipped > 0
        p, q = clipped[compared] / clipped.sum(), coarse[compared] / max(inside.sum(), 1)
        divergence = float(np.sum(p * np.log(p / np.maximum(q, SMOOTH))))
        if divergence < least:
            best, least = kept, divergence
    return best


def _with_relu_inputs(model: ModelProto, ranges: dict[str, Range]) -> dict[str, Range]:
    """Adds the inputs of Relus, each with the range of the output: rounding into that range clips as the Relu does."""
    return ranges | {node.input[0]: ranges[node.output[0]] for node in model.graph.node if node.op_type == "Relu"}


def _run(
    model: ModelProto, names: list[str], images: np.ndarray, advance: Callable[[int], None]
) -> Iterator[dict[str, np.ndarray]]:
    """The activations of all images, a batch at a time."""
    augmented = ModelProto()
    augmented.CopyFrom(model)
    outputs = {output.name for output in model.graph.output}
    augmented.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in names if name not in outputs)
    session = open_graph(augmented).ort
    for start in range(0, len(images), BATCH):
        batch = images[start : start + BATCH]
        yield dict(zip(names, session.run(names, {INPUT: batch}), strict=True))
        advance(len(batch))
