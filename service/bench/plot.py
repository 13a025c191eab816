"""A picture of latencies by percentile, with the extra `plot`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from service.bench.levels import Level

SUFFIXES = (".svg", ".png")
TICKS = (0.0, 50.0, 90.0, 99.0, 99.9, 99.99)


def draw(levels: Sequence[Level], title: str, path: Path) -> None:
    """Latency against percentile, one line for each level, both on logarithmic scales.

    The horizontal axis gives each further nine the same room: that is where servers differ.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.add_subplot()
    most = max((len(level.latencies) for level in levels), default=0)
    for level in levels:
        count = len(level.latencies)
        # The k-th of n answers is at the percentile k/n; as 1/(1 - k/n), with the last one at n.
        places = [count / (count - index) for index in range(count)]
        axes.plot(
            places, level.latencies, drawstyle="steps-post", label=f"{level.name}: {level.per_second:.1f} images/s"
        )
    ticks = [tick for tick in TICKS if 100 / (100 - tick) <= max(most, 2)]
    axes.set(title=title, xlabel="percentile of the answers", ylabel="latency in ms", xscale="log", yscale="log")
    axes.set_xticks([100 / (100 - tick) for tick in ticks], [f"{tick:g}" for tick in ticks])
    limits = axes.get_ylim()
    marks = latency_ticks(*limits)
    axes.set_yticks(marks, [f"{mark:g}" for mark in marks])
    axes.minorticks_off()
    axes.set_ylim(limits)
    axes.grid(alpha=0.3)
    if levels:
        axes.legend()
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)


def latency_ticks(low: float, high: float) -> list[float]:
    """Where to mark a logarithmic axis between two positive numbers: at three places or more.

    At 1, 2 and 5 of each decade; at every digit where the axis has few of those; else at even distances.
    """
    from matplotlib.ticker import MaxNLocator

    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for digits in ((1, 2, 5), range(1, 10)):
        marks = [digit * 10.0**decade for decade in decades for digit in digits]
        if len(inside := [mark for mark in marks if low <= mark <= high]) >= 3:
            return inside
    return [float(mark) for mark in MaxNLocator(8, steps=[1, 2, 5, 10]).tick_values(low, high) if low <= mark <= high]
