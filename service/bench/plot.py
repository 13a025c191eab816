"""A picture of latencies by percentile, with the extra `plot`."""

from __future__ import annotations

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
    axes.minorticks_off()
    axes.yaxis.set_major_formatter(lambda value, place: f"{value:g}")
    axes.grid(alpha=0.3)
    if levels:
        axes.legend()
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)
