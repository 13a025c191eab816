"""Plots of evaluations: confusion, reliability, rejection."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure

from model_export.evaluation.metrics import ReliabilityBins
from model_export.evaluation.rejection import RiskCoverage
from model_export.report.plots import BLACK, BLUE, GREY, SKY, TEXT, VERMILION, legend_above, new_figure, plain, style

MAX_COUNTS = 15  # up to so many classes, a confusion matrix shows counts in its cells
MAX_NAMES = 40  # up to so many classes, it names them on its axes


def confusion_plot(matrix: np.ndarray, classes: Sequence[str], title: str = "Confusion matrix") -> Figure:
    """The confusion matrix as a heat map; each row, a true class, adds up to 100%.

    Args:
        matrix: int (classes, classes), counts; rows true, columns predicted.
    """
    count = len(classes)
    figure = new_figure(min(9.0, 4.5 + 0.35 * count), title)
    figure.set_layout_engine("compressed")  # the matrix is square, the figure is not
    axes = figure.subplots()
    images = matrix.sum(axis=1, keepdims=True)
    shares = np.divide(100 * matrix, images, out=np.full(matrix.shape, np.nan), where=images > 0)
    norm = PowerNorm(0.5, vmin=0, vmax=100)  # emphasises small shares: mistakes are few
    heat_map = axes.imshow(shares, cmap="Blues", norm=norm)
    axes.set_facecolor("#dddddd")  # shows for classes without images
    axes.set_xlabel("predicted class", fontsize=TEXT)
    axes.set_ylabel("true class", fontsize=TEXT)
    if count <= MAX_NAMES:
        size = TEXT if count <= 20 else 8
        names = [plain(name) for name in classes]
        axes.set_xticks(range(count), names, rotation=90 if count > 6 else 0, fontsize=size, parse_math=False)
        axes.set_yticks(range(count), names, fontsize=size, parse_math=False)
        axes.tick_params(length=0)
    if count <= MAX_COUNTS:
        for (i, j), cell in np.ndenumerate(matrix):
            if cell:
                colour = "white" if norm(shares[i, j]) > 0.6 else "black"
                axes.text(j, i, f"{cell}", ha="center", va="center", fontsize=TEXT - 1, color=colour)
    bar = figure.colorbar(heat_map, ax=axes, shrink=0.8, ticks=(0, 1, 5, 10, 20, 40, 60, 80, 100))
    bar.set_label("% of the true class's images", fontsize=TEXT)
    bar.outline.set_visible(False)
    for spine in axes.spines.values():
        spine.set_visible(False)
    return figure


class ReliabilityNames(NamedTuple):
    """What a plot of reliability calls its axes."""

    accuracy: str
    confidence: str
    confidence_axis: str
    counts: str


BEST_CLASS = ReliabilityNames("accuracy", "confidence", "confidence: the probability of the predicted class", "images")
EVERY_CLASS = ReliabilityNames("present", "probability", "probability of a class in an image", "classes x images")


def reliability_plot(bins: ReliabilityBins, title: str = "Reliability", names: ReliabilityNames = BEST_CLASS) -> Figure:
    """Accuracy against confidence (Guo et al. 2017, figure 1), with the number of images in each bin.

    Args:
        bins: at least one not empty.
    """
    confidence, accuracy, count = bins
    filled = count > 0
    figure = new_figure(6.6, title)
    shares, images = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    width = 1 / len(count)
    middles = (np.arange(len(count)) + 0.5) * width
    shares.bar(middles[filled], 100 * accuracy[filled], width, color=SKY, edgecolor="white")
    shares.plot(confidence[filled], 100 * accuracy[filled], "o", color=BLUE, markersize=6,
                label=f"{names.accuracy} at the mean {names.confidence} of a bin")  # fmt: skip
    shares.plot([0, 1], [0, 100], color=BLACK, linewidth=1.2, linestyle="--", label="perfectly calibrated")
    style(shares, f"{names.accuracy} (%)")
    shares.set_ylim(0, 104)
    shares.set_yticks(range(0, 101, 20))
    shares.legend(**legend_above(2))

    images.bar(middles, count, width, color=GREY, edgecolor="white")
    for x, height in zip(middles[filled], count[filled], strict=True):
        images.annotate(f"{height:,}", (x, height), xytext=(0, 2), textcoords="offset points", ha="center", fontsize=8)
    style(images, names.counts)
    images.set_ylim(0, 1.25 * count.max())
    images.set_xlim(0, 1)
    images.set_xlabel(names.confidence_axis, fontsize=TEXT)
    figure.align_ylabels()
    return figure


def rejection_plot(curve: RiskCoverage, title: str = "Rejection") -> Figure:
    """The error of the answers and the threshold, against coverage (Geifman and El-Yaniv 2017, figure 1)."""
    figure = new_figure(4.6, title)
    axes = figure.subplots()
    axes.plot(100 * curve.coverage, 100 * curve.error, color=VERMILION, linewidth=1.8, label="answered wrongly (%)")
    axes.plot(100 * curve.coverage, 100 * curve.threshold, color=GREY, linewidth=1.2, linestyle="--",
              label="by the threshold, a probability (%)")  # fmt: skip
    style(axes, "percent")
    axes.set_xlim(0, 100)
    axes.set_ylim(0, 104)
    axes.set_xlabel("coverage: images that are answered (%)", fontsize=TEXT)
    axes.legend(**legend_above(2))
    return figure
