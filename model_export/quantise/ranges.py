"""The range of every activation, found by running real images through the fp32 graph: what int8 divides into 256 steps.

ONNX Runtime's own calibrators do the same. But its histograms take all activations of a whole run into memory or count
with bins whose width the first batch decides, and its search for the least divergence, in pure Python, takes minutes.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx
from onnx import ModelProto, helper

from service.card import CalibrationMethod
from service.engine import INPUT
from service.providers import open_session, usable_cores

# What is computed in int8. With the additions of the shortcuts nothing between the first convolution and the last
# feature map goes back to float.
OPERATORS = ("Conv", "Gemm", "Add", "Relu", "MaxPool")

BINS = 2048  # of a histogram of absolute values, as in TensorRT and NVIDIA's pytorch-quantization
SMOOTH = 1e-4  # least share of a bin in what is compared, as in MXNet: none would make the divergence infinite
STRIDE = 8  # bins between two thresholds that are compared
PERCENTILE = 99.999  # of absolute values; ONNX Runtime's
AT_ONCE = 2  # images whose activations are in memory; of ResNet-152 they take 0.2 GB each


class Range(NamedTuple):
    """Of one activation, 0 included."""

    low: float
    high: float


def activation_ranges(
    fp32: Path, images: np.ndarray, method: CalibrationMethod, advance: Callable[[int], None]
) -> dict[str, Range]:
    """The range of every activation that int8 rounds, by name.

    Args:
        images: uint8 (N, 3, crop, crop).
        method: minmax: all that occurred. percentile: all but the outermost hundred-thousandth of the absolute values.
            entropy: what keeps the most information (`least_divergence`).
        advance: is told of images done; there are as many of them as images, or with a histogram twice as many.
    """
    model = onnx.load(fp32)
    names = activations(model)
    low, high = (dict.fromkeys(names, 0.0) for _ in range(2))
    for found in _runs(model, names, images, advance):
        for name, values in found.items():
            low[name] = min(low[name], float(values.min()))
            high[name] = max(high[name], float(values.max()))
    if method == "minmax":
        return _with_cut(model, {name: Range(low[name], high[name]) for name in names})

    largest = {name: max(-low[name], high[name], 1e-30) for name in names}
    counts = {name: np.zeros(BINS, np.int64) for name in names}
    for found in _runs(model, names, images, advance):
        for name, values in found.items():
            counts[name] += np.histogram(np.abs(values), BINS, (0, largest[name]))[0]
    ranges = {}
    for name in names:
        if method == "percentile":
            bins = int(np.searchsorted(np.cumsum(counts[name]), PERCENTILE / 100 * counts[name].sum())) + 1
        else:
            bins = least_divergence(counts[name], levels=128 if low[name] < 0 else 256)
        threshold = largest[name] * bins / BINS
        ranges[name] = Range(max(low[name], -threshold), min(high[name], threshold))
    return _with_cut(model, ranges)


def activations(model: ModelProto) -> list[str]:
    """What goes in and out of the operators of int8, constants left out; of what a Relu cuts off only the rest."""
    constants = {constant.name for constant in model.graph.initializer}
    nodes = [node for node in model.graph.node if node.op_type in OPERATORS]
    names = dict.fromkeys(name for node in nodes for name in (*node.input, *node.output) if name not in constants)
    cut = {node.input[0] for node in nodes if node.op_type == "Relu"}
    return [name for name in names if name not in cut]


def _with_cut(model: ModelProto, ranges: dict[str, Range]) -> dict[str, Range]:
    """What a Relu is given has the range of what it leaves: rounding into that cuts off the rest."""
    return ranges | {node.input[0]: ranges[node.output[0]] for node in model.graph.node if node.op_type == "Relu"}


def least_divergence(counts: np.ndarray, levels: int) -> int:
    """How many bins to keep of a histogram of absolute values, so that the least information is lost.

    For each number of bins, those beyond are counted into the last, and the histogram that `levels` steps leave of the
    rest is compared with it by the Kullback-Leibler divergence (Migacz, "8-bit inference with TensorRT", 2017).

    Args:
        counts: int64 (bins,), more than `levels`.
    """
    counts = counts.astype(np.float64)
    counts[0] = counts[1]  # zeros, half of what a ReLU leaves, are exact with every range
    best, least = len(counts), np.inf
    for kept in range(levels, len(counts) + 1, STRIDE):
        rest = counts[:kept]
        filled = rest > 0
        starts = np.arange(levels) * kept // levels
        sums, bins = np.add.reduceat(rest, starts), np.add.reduceat(filled.astype(np.float64), starts)
        widths = np.diff(starts, append=kept)
        coarse = np.repeat(np.divide(sums, bins, out=np.zeros(levels), where=bins > 0), widths)
        clipped = rest.copy()
        clipped[-1] += counts[kept:].sum()
        there = clipped > 0
        p, q = clipped[there] / clipped.sum(), coarse[there] / max(rest.sum(), 1)
        divergence = float(np.sum(p * np.log(p / np.maximum(q, SMOOTH))))
        if divergence < least:
            best, least = kept, divergence
    return best


def _runs(
    model: ModelProto, names: list[str], images: np.ndarray, advance: Callable[[int], None]
) -> Iterator[dict[str, np.ndarray]]:
    """The activations of all images, a few at a time."""
    augmented = ModelProto()
    augmented.CopyFrom(model)
    outputs = {output.name for output in model.graph.output}
    augmented.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in names if name not in outputs)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        onnx.save(augmented, path)
        session = open_session(path, "cpu", threads=usable_cores()).ort
    for start in range(0, len(images), AT_ONCE):
        batch = images[start : start + AT_ONCE]
        yield dict(zip(names, session.run(names, {INPUT: batch}), strict=True))
        advance(len(batch))
