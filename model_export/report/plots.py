"""Plots of trainings, 1000 pixels wide; and how every plot looks.

Without pyplot: no display, no global state. The colours are those of Okabe and Ito (2008), distinct for colour-blind
readers too.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter, LogLocator, MaxNLocator, NullFormatter, NullLocator

from model_export.training.history import Row, best_row
from model_export.training.range_test import RangeTest
from service.runtime.disk import write_atomically

WIDTH = 10.0  # inches, at DPI
DPI = 100
BLUE, VERMILION, GREEN, ORANGE, PURPLE, SKY, BLACK = COLOURS = (
    "#0072B2", "#D55E00", "#009E73", "#E69F00", "#CC79A7", "#56B4E9", "#000000",
)  # fmt: skip
GREY = "#6b6b6b"
TEXT = 11  # points
TITLE = 13

NAME_LENGTH = 22
LABEL_GAP = 0.045  # least distance of labels at the ends of lines, as a fraction of the panel's height


def to_png(figure: Figure) -> bytes:
    """The figure as a PNG file."""
    file = io.BytesIO()
    with warnings.catch_warnings():
        # Class names may be in any script; a box stands in for glyphs that the font lacks.
        warnings.filterwarnings("ignore", "Glyph .* missing from font", UserWarning)
        figure.savefig(file, format="png", dpi=DPI)
    return file.getvalue()


def save_png(figure: Figure, path: Path) -> None:
    """Writes the figure as a PNG file, atomically.

    Raises:
        OSError: the file cannot be written.
    """
    write_atomically(path, to_png(figure))


def training_curves(rows: Sequence[Row], title: str) -> Figure:
    """Error, loss and learning rate against epochs, with the best validation error marked.

    Args:
        rows: the history of one training, at least one row.
    """
    figure = new_figure(7.6, title)
    error, loss, lr = figure.subplots(3, 1, sharex=True, height_ratios=(4, 3, 1.3))
    epochs = [row.epoch for row in rows]
    marker = _marker(rows)
    for axes, name, scale in ((error, "error", 100), (loss, "loss", 1)):
        train, val = (np.array([getattr(row, f"{part}_{name}") for row in rows]) * scale for part in ("train", "val"))
        if axes is loss or not rows[-1].multi_label:  # whose errors in training and validation are two measures
            axes.plot(epochs, train, color=BLUE, linewidth=1.2, linestyle="--", marker=marker, label="training")
        axes.plot(epochs, val, color=VERMILION, linewidth=2.4, marker=marker, label="validation")
        style(axes, name if name == "loss" else "1 - mAP (%)" if rows[-1].multi_label else "error (%)")
        finite = [value for value in (*train, *val) if np.isfinite(value)]  # a diverged training has NaN or infinity
        axes.set_ylim(0, (1.05 * max(finite, default=0)) or 1)
    error.set_xlim(0, (1.01 * max(epochs)) or 1)

    best = best_row(rows)
    error.plot([best.epoch], [100 * best.val_error], "o", color=VERMILION, markersize=8, markeredgecolor="white",
               label=f"best: {100 * best.val_error:.2f}% after epoch {best.epoch:.4g}", zorder=3)  # fmt: skip
    error.legend(**legend_above(3))

    lr.step([0, *epochs], [rows[0].lr, *(row.lr for row in rows)], where="pre", color=GREY, linewidth=1.5)
    style(lr, "learning rate")
    highest = max(row.lr for row in rows)
    if highest > 0:
        # A cosine schedule ends near zero; four decades show enough.
        lowest = max(min(row.lr for row in rows if row.lr > 0), highest / 1e4)
        lr.set_yscale("log")
        lr.set_ylim(lowest / 2, highest * 2)
        lr.yaxis.set_major_locator(LogLocator(numticks=4))
        lr.yaxis.set_minor_locator(NullLocator())
        lr.yaxis.set_minor_formatter(NullFormatter())
    lr.set_xlabel("epoch", fontsize=TEXT)
    figure.align_ylabels()
    return figure


def range_test_plot(test: RangeTest, title: str) -> Figure:
    """Loss against the learning rate, with the suggested one marked."""
    figure = new_figure(5.4, title)
    axes = figure.subplots()
    axes.plot(test.lrs, test.losses, color=SKY, linewidth=1, label="loss of a step")
    axes.plot(test.lrs, test.trend, color=BLUE, linewidth=2.4, label="trend")
    at = int(np.argmin(np.abs(test.lrs - test.suggested)))
    axes.plot([test.lrs[at]], [test.trend[at]], "o", color=VERMILION, markersize=9, markeredgecolor="white",
              label=f"falls fastest: {test.suggested:.2g}", zorder=3)  # fmt: skip
    axes.set_xscale("log")
    axes.set_xlabel("learning rate", fontsize=TEXT)
    style(axes, "loss")
    # Where it diverges, the loss rises without end: the figure is about where it falls.
    axes.set_ylim(0.9 * test.losses.min(), 1.3 * test.trend[0])
    axes.legend(**legend_above(3))
    return figure


def compare_trainings(panels: Mapping[str, Mapping[str, Sequence[Row]]], title: str, held_out: str) -> Figure:
    """Error against iterations, as in the paper's figures 4 and 6: panels side by side, one colour per network.

    Training errors are dashed; those on the `held_out` images are bold, with the last value at the end of the line. The
    n-th networks of all panels share a colour.

    Args:
        panels: title -> network -> history; at least one panel, network and row each.
    """
    figure = new_figure(5.4, title)
    all_axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    every_run = [rows for runs in panels.values() for rows in runs.values()]
    ends = [100 * max(rows[-1].val_error, rows[-1].train_error) for rows in every_run]
    highest = max(100 * max(row.val_error, row.train_error) for rows in every_run for row in rows)
    # The first iterations may be cut off: what matters is where the lines end.
    top = max(min(1.05 * highest, max(2.2 * max(ends), 5.0), 100.0), 1.0)
    for axes, (name, runs) in zip(all_axes, panels.items(), strict=True):
        style(axes, "")
        axes.set_title(plain(name), fontsize=TEXT + 1, parse_math=False)
        axes.set_xlabel("iteration", fontsize=TEXT)
        axes.set_ylim(0, top)
        longest = max(rows[-1].step for rows in runs.values())
        axes.set_xlim(0, max(longest, 1))
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))  # 20000 is 20k
        heights = _spread([100 * rows[-1].val_error for rows in runs.values()], LABEL_GAP * top)
        for i, ((network, rows), height) in enumerate(zip(runs.items(), heights, strict=True)):
            colour = COLOURS[i % len(COLOURS)]
            steps = [row.step for row in rows]
            axes.plot(steps, [100 * row.train_error for row in rows], color=colour, linewidth=1, linestyle="--")
            axes.plot(steps, [100 * row.val_error for row in rows], color=colour, linewidth=2.4,
                      marker=_marker(rows))  # fmt: skip
            label = f"{plain(network)}  {100 * rows[-1].val_error:.1f}"
            axes.annotate(
                label, (1, height / top), xycoords="axes fraction", xytext=(6, 0), textcoords="offset points",
                color=colour, fontsize=TEXT, va="center", annotation_clip=False, parse_math=False,
            )  # fmt: skip
    all_axes[0].set_ylabel("error (%)", fontsize=TEXT)
    styles = [
        Line2D([], [], color=GREY, linewidth=1, linestyle="--", label="training"),
        Line2D([], [], color=GREY, linewidth=2.4, label=held_out),
    ]
    figure.legend(handles=styles, loc="outside lower center", ncols=2, frameon=False, fontsize=TEXT)
    return figure


def new_figure(height: float, title: str) -> Figure:
    """An empty figure; `height` in inches."""
    figure = Figure(figsize=(WIDTH, height), dpi=DPI, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    figure.suptitle(plain(title, 90), fontsize=TITLE, parse_math=False)
    return figure


def style(axes: Axes, ylabel: str) -> None:
    """The look of axes: no frame, lines behind the data."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#e4e4e4", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=TEXT - 1)
    axes.set_ylabel(ylabel, fontsize=TEXT)


def legend_above(columns: int) -> dict[str, object]:
    """Legend options: above the axes, where it covers no data."""
    return {"loc": "lower left", "bbox_to_anchor": (0, 1), "ncols": columns, "frameon": False, "fontsize": TEXT}


def _marker(rows: Sequence[Row]) -> str:
    """A dot for a history of one row: a line through one point is invisible."""
    return "o" if len(rows) == 1 else ""


def plain(name: str, length: int = NAME_LENGTH) -> str:
    """A name on one line, cut to a length, without characters that cannot be rendered."""
    line = " ".join(name.encode("utf-8", "replace").decode().split())
    return line if len(line) <= length else line[: length - 1] + "…"


def _spread(heights: Sequence[float], gap: float) -> list[float]:
    """Moves heights to be at least `gap` apart and above half a gap, in the same order and as little as possible.

    Neighbours that are too close form a group, centred on its members' mean; groups that meet are merged.
    """
    order = sorted(range(len(heights)), key=lambda i: heights[i])
    groups: list[list[int]] = []
    bottoms: list[float] = []
    for i in order:
        group, bottom = [i], heights[i]
        while groups and bottom < bottoms[-1] + gap * len(groups[-1]):
            group = groups.pop() + group
            bottoms.pop()
            bottom = float(np.mean([heights[i] - gap * k for k, i in enumerate(group)]))
        groups.append(group)
        bottoms.append(bottom)
    moved = {i: bottom + gap * k for group, bottom in zip(groups, bottoms, strict=True) for k, i in enumerate(group)}
    lowest = {i: gap * (k + 0.5) for k, i in enumerate(order)}
    return [max(moved[i], lowest[i]) for i in range(len(heights))]
