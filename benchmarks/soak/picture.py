"""The picture of a soak: faults, load, latency, memory and descriptors over time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from benchmarks.soak.faults import ENDING, KINDS

COLOURS = {"single process": "#1f77b4", "two workers": "#ff7f0e"}


def plot(found: dict[str, Any], path: Path) -> None:
    """Writes a PNG from the content of the file of results."""
    series = found["series"]
    scale, unit = (60, "minutes") if series["seconds"][-1] > 300 else (1, "seconds")
    times = [second / scale for second in series["seconds"]]
    figure = Figure(figsize=(12, 13), layout="constrained")
    FigureCanvasAgg(figure)
    faults, rates, latency, memory, descriptors = figure.subplots(
        5, 1, sharex=True, gridspec_kw={"height_ratios": [2.2, 1.3, 1.5, 1.5, 1.5]}
    )
    _faults(faults, found["faults"], scale)
    rates.plot(times, series["right_per_second"], color="#2ca02c", label="right answers", linewidth=1)
    rates.plot(times, series["busy_per_second"], color="#9467bd", label="503 with Retry-After", linewidth=1)
    rates.plot(times, series["lost_per_second"], color="red", label="lost", linewidth=1.5)
    rates.set_ylabel("requests/s of\ngood clients")
    latency.plot(times, _gaps(series["p99_ms"]), color="#d62728", label="p99", linewidth=1)
    latency.plot(times, _gaps(series["p50_ms"]), color="#1f77b4", label="p50", linewidth=1)
    latency.set_yscale("log")
    latency.set_ylabel("latency of right\nanswers, ms")
    for name, colour in COLOURS.items():
        memory.plot(times, series[name]["pss"], color=colour, label=f"{name}, PSS", linewidth=1)
        memory.plot(times, series[name]["rss"], color=colour, label=f"{name}, RSS", linewidth=0.7, alpha=0.45)
        descriptors.plot(times, series[name]["descriptors"], color=colour, label=name, linewidth=1)
        descriptors.plot(
            times, series[name]["threads"], color=colour, label=f"{name}, threads", linewidth=0.7, linestyle=":"
        )
    memory.set_ylabel("memory of all\nprocesses, MB")
    descriptors.set_ylabel("open descriptors,\nthreads")
    descriptors.set_xlabel(f"{unit} since the start")
    for axes in (rates, latency, memory, descriptors):
        axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False, fontsize=9)
        axes.grid(alpha=0.3)
        for at, _, kind in found["faults"]:
            if kind in ENDING:
                axes.axvline(at / scale, color="black", linewidth=0.4, alpha=0.25)
    for axes in (rates, memory, descriptors):
        axes.set_ylim(bottom=0)
    requests = found["requests"]
    hostile = sum(sum(statuses.values()) for statuses in found["hostile"].values())
    faults.set_title(
        f"{sum(requests.values()):,} requests, {requests['lost']} lost; {len(found['faults'])} faults, "
        f"{hostile:,} hostile bodies",
        loc="left",
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=100)


def _faults(axes: Axes, faults: list[tuple[float, float, str]], scale: float) -> None:
    """One row for each kind: a bar from a fault to its end."""
    for row, kind in enumerate(reversed(KINDS)):
        bars = [(at / scale, max(lasted / scale, 0.002)) for at, lasted, what in faults if what == kind]
        colour = "black" if kind in ENDING else "#7f7f7f"
        axes.broken_barh(bars, (row - 0.35, 0.7), facecolors=colour, edgecolors=colour, linewidth=1)
    axes.set_yticks(range(len(KINDS)), reversed(KINDS), fontsize=9)
    axes.grid(axis="y", alpha=0.2)
    # The legend of the lines in the other panels, too.
    axes.plot([], [], color="black", linewidth=4, label="ends processes\n(thin lines below)")
    axes.plot([], [], color="#7f7f7f", linewidth=4, label="does not")
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False, fontsize=9)


def _gaps(values: list[float | None]) -> list[float]:
    """For matplotlib, NaN where there is no value."""
    return [float("nan") if value is None else value for value in values]
