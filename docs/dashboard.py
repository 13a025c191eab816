"""Draws the Grafana dashboard for docs/ from a real Prometheus: `python -m docs.dashboard MODELS_DIR`.

Two replicas are loaded, overloaded, one of them killed, and sent other pictures: three minutes. Needs prometheus
(tests/install-tools), and a folder with a model that knows the drawings, such as `python -m model_export demo` makes.
"""

from __future__ import annotations

import argparse
import io
import itertools
import math
import signal
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.gridspec import GridSpec
from PIL import Image

from benchmarks.dashboard import Panel, read_dashboard
from benchmarks.prometheus import JOB, SCRAPE_S, Prometheus, prometheus
from model_export.drawings.pictures import CLASSES, picture
from tests.support.clients import working
from tests.support.processes import JPEG, Service, free_port
from tests.support.waiting import until

PICTURE = Path(__file__).parent / "images" / "dashboard.png"
WINDOW = "8s"  # $__rate_interval
SHORTENED = 600  # ten minutes of the rules take a second
SETTINGS = {"provider": "cpu", "workers": 2, "engine_threads": 1, "target_wait_ms": 300, "max_batch": 8}
PAUSE_S = 0.25  # of a client that was refused, or whose replica has gone
CALM, STORM = 3, 40  # clients

CURVES = ("#1f77b4", "#ff7f0e", "#2ca02c", "#9467bd", "#8c564b", "#e377c2", "#17becf", "#bcbd22", "#7f7f7f", "#aec7e8")
STATES = {"green": "#2f9e44", "orange": "#e8890c", "red": "#d6336c"}
INK, PALE, PAPER, FRAME = "#24292f", "#6e7781", "#f6f8fa", "#d0d7de"


class Load:
    """Clients that classify drawings, by turns at each replica."""

    def __init__(self, services: Sequence[Service]) -> None:
        self._services = services
        self.classes: Sequence[int] = range(len(CLASSES))

    @contextmanager
    def clients(self, count: int, pause: float) -> Iterator[None]:
        """
        Args:
            pause: seconds between an answer and the next request.
        """

        def send(number: int, ended: threading.Event) -> None:
            with httpx.Client(timeout=60, verify=False) as client:
                for seed in itertools.count(1000 * number):
                    if ended.wait(pause):
                        return
                    jpeg = picture(seed, self.classes[seed % len(self.classes)])
                    try:
                        service = self._services[seed % len(self._services)]
                        good = client.post(f"{service.url}/classify", content=jpeg, headers=JPEG).is_success
                    except httpx.TransportError:
                        good = False
                    if not good:
                        ended.wait(PAUSE_S)

        with working(count, send):
            yield


Events = list[tuple[float, str]]


def play(services: Sequence[Service]) -> Events:
    """What the picture shows, and when it began, in seconds since the epoch."""
    load, events = Load(services), [(time.time(), "load")]
    with load.clients(CALM, 0.02):
        time.sleep(45)
        events.append((time.time(), "overload"))
        with load.clients(STORM, 0.0):
            time.sleep(40)
        events.append((time.time(), "the end of it"))
        time.sleep(20)
        events.append((time.time(), "a replica is killed"))
        services[1].stop(signal.SIGKILL)
        time.sleep(6)
        services[1].start()
        time.sleep(20)
        events.append((time.time(), "only stars"))
        load.classes = [CLASSES.index("star")]
        time.sleep(45)
    return events


def number(value: float, unit: str) -> str:
    """A value as Grafana writes it."""
    if unit == "percentunit":
        return f"{100 * value:.3g} %"
    if unit == "s":
        return f"{1000 * value:.3g} ms" if abs(value) < 1 else f"{value:.3g} s"
    if unit == "bytes":
        return f"{value / 2**30:.3g} GiB" if value >= 2**30 else f"{value / 2**20:.0f} MiB"
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"


def draw_stat(axes: Axes, panel: Panel, found: Prometheus) -> None:
    values = [value for _, value in found.query(panel.queries[0].expression)]
    value = max(values, default=math.nan)
    colour = [name for least, name in panel.thresholds if value >= least][-1:] or ["green"]
    axes.set(xticks=[], yticks=[])
    text, colour_of = number(value, panel.unit), STATES[colour[0]]
    axes.text(0.5, 0.45, text, ha="center", va="center", fontsize=22, color=colour_of, transform=axes.transAxes)


def draw_alerts(axes: Axes, found: Prometheus, start: float, end: float) -> None:
    """The dashboard's annotations: a bar for each alert while it fires."""
    expression = 'max by (alertname, severity) (ALERTS{alertname=~"Resnet.*",alertstate="firing"})'
    curves = sorted(found.curves(expression, start, end, SCRAPE_S), key=lambda curve: -curve.times[0])
    for place, curve in enumerate(curves):
        colour = STATES["red" if curve.labels["severity"] == "page" else "orange"]
        bars = [(at - start, SCRAPE_S) for at in curve.times]
        axes.broken_barh(bars, (place - 0.36, 0.72), color=colour, linewidth=0)
        name = curve.labels["alertname"].removeprefix("Resnet")
        late = bars[-1][0] > 0.85 * (end - start)  # no room behind it
        at, side = (bars[0][0] - 0.5, "right") if late else (bars[-1][0] + 1.5, "left")
        axes.text(at, place, name, fontsize=7.5, color=INK, va="center", ha=side)
    axes.set_yticks([])
    axes.set_ylim(-0.6, len(curves) - 0.4)


def draw_table(axes: Axes, panel: Panel, found: Prometheus) -> None:
    rows = [labels for labels, _ in found.query(panel.queries[0].expression)]
    names = [
        name for name in sorted({name for labels in rows for name in labels}) if any(row.get(name) for row in rows)
    ]
    axes.set_axis_off()
    table = axes.table(
        [[row.get(name, "") for name in names] for row in rows], colLabels=names, loc="upper center", cellLoc="left"
    )
    table.auto_set_font_size(False)
    table.set_fontsize(8)
    table.auto_set_column_width(range(len(names)))
    for (line, _), cell in table.get_celld().items():
        cell.set(edgecolor=FRAME, linewidth=0.5, height=0.3, facecolor=PAPER if line == 0 else "white")
        cell.get_text().set_color(PALE if line == 0 else INK)


def draw_heatmap(axes: Axes, panel: Panel, found: Prometheus, start: float, end: float) -> None:
    curves = {curve.labels["le"]: curve for curve in found.curves(panel.queries[0].expression, start, end, SCRAPE_S)}
    edges = sorted(curves, key=float)
    times = np.arange(0, end - start, SCRAPE_S)
    total = np.array([np.interp(times, np.array(curves[le].times) - start, curves[le].values) for le in edges])
    counts = np.diff(total, axis=0, prepend=0)
    seen = [i for i in range(len(edges)) if counts[i].max() > 0.5]
    shown = counts[: seen[-1] + 1] if seen else counts
    axes.imshow(
        np.sqrt(np.maximum(shown, 0)),
        aspect="auto",
        origin="lower",
        cmap="Blues",
        extent=(0, end - start, -0.5, len(shown) - 0.5),
        interpolation="nearest",
    )
    axes.set_yticks(range(len(shown)), [f"≤ {float(le):g}" for le in edges[: len(shown)]])


def draw_curves(axes: Axes, panel: Panel, found: Prometheus, start: float, end: float) -> None:
    """Series that are 0 all the time have no legend."""
    curves = [
        (query.name(dict(curve.labels)), curve)
        for query in panel.queries
        for curve in found.curves(query.expression, start, end, SCRAPE_S)
    ]
    times = np.arange(0, end - start, SCRAPE_S)
    below = np.zeros(len(times))
    for index, (name, curve) in enumerate(curves):
        colour = CURVES[index % len(CURVES)]
        values = np.full(len(times), np.nan)
        places = np.clip(np.round((np.array(curve.times) - start) / SCRAPE_S).astype(int), 0, len(times) - 1)
        values[places] = curve.values
        name = name if np.nanmax(values, initial=0) > 0 else f"_{name}"
        if panel.stacked:
            values = np.nan_to_num(values)
            axes.fill_between(times, below, below + values, color=colour, alpha=0.35, linewidth=0)
            axes.plot(times, below + values, color=colour, linewidth=0.9, label=name)
            below = below + values
        elif name == "target":
            axes.plot(times, values, color=STATES["red"], linewidth=1, linestyle=(0, (5, 3)), label=name)
        else:
            axes.plot(times, values, color=colour, linewidth=1.2, label=name)
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_formatter(lambda value, place: number(value, panel.unit))
    if curves:
        axes.legend(
            loc="upper left",
            bbox_to_anchor=(-0.02, -0.13),
            ncols=3 if len(curves) > 2 else 2,
            fontsize=6.5,
            frameon=False,
            handlelength=1.0,
            columnspacing=1.0,
            labelspacing=0.25,
        )


def lines_of_panels() -> list[list[Panel]]:
    """The panels in the dashboard's own order: rows of it, six small or three large ones in a line."""
    lines: list[list[Panel]] = []
    for panel in read_dashboard(WINDOW):
        first = lines[-1][0] if lines else None
        if first and first.row == panel.row and len(lines[-1]) < (6 if first.kind == "stat" else 3):
            lines[-1].append(panel)
        else:
            lines.append([panel])
    return lines


def over_time(axes: Axes, events: Events, start: float, end: float, named: bool) -> None:
    """The axis of time, and what happened when."""
    axes.set_xlim(0, end - start)
    axes.xaxis.set_major_formatter(lambda seconds, place: f"{seconds:.0f} s")
    axes.grid(color=FRAME, linewidth=0.5, alpha=0.7)
    axes.set_axisbelow(True)
    for at, name in events[1:]:
        axes.axvline(at - start, color=PALE, linewidth=0.8, linestyle=":")
        if named:
            where = axes.get_xaxis_transform()
            axes.text(at - start + 0.5, 1.02, name, transform=where, fontsize=8, color=PALE, va="bottom")


def draw(found: Prometheus, events: Events, start: float, end: float) -> Figure:
    """All panels; below the first line, the alerts that the dashboard marks on them."""
    stats, *others = lines_of_panels()
    heights = [0.32, 0.75, *(0.3 if line[0].kind == "table" else 1.0 for line in others)]
    figure = Figure(figsize=(17, 2.6 * sum(heights) + 1.5), facecolor=PAPER, dpi=85)
    place = {"left": 0.035, "right": 0.99, "top": 0.965, "bottom": 0.045, "hspace": 0.68, "wspace": 0.42}
    grid = GridSpec(len(heights), 6, figure, height_ratios=heights, **place)
    figure.text(0.012, 0.987, "ResNet service", fontsize=15, color=INK, weight="bold", va="center")

    def panel_at(line: int, columns: slice, title: str) -> Axes:
        axes = figure.add_subplot(grid[line, columns], facecolor="white")
        axes.set_title(title, fontsize=9.5, color=INK, loc="left", weight="bold", pad=5)
        axes.tick_params(labelsize=7, colors=PALE, length=0)
        for side in axes.spines.values():
            side.set(color=FRAME, linewidth=0.7)
        return axes

    for number_, panel in enumerate(stats):
        draw_stat(panel_at(0, slice(number_, number_ + 1), panel.title), panel, found)
    axes = panel_at(1, slice(0, 6), "Alerts that fire (red: page)")
    draw_alerts(axes, found, start, end)
    over_time(axes, events, start, end, named=True)
    for number_, line in enumerate(others, start=2):
        for index, panel in enumerate(line):
            axes = panel_at(number_, slice(2 * index, 2 * index + 2), panel.title)
            if panel.kind == "table":
                draw_table(axes, panel, found)
                continue
            (draw_heatmap if panel.kind == "heatmap" else draw_curves)(axes, panel, found, start, end)
            over_time(axes, events, start, end, named=False)
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description="Draws the dashboard for docs/.")
    parser.add_argument("models_dir", type=Path)
    models_dir = parser.parse_args().models_dir
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        ports = [free_port(), free_port()]
        services = [
            stack.enter_context(Service(models_dir, folder / f"{port}.log", admin_port=port, **SETTINGS))
            for port in ports
        ]
        targets = [
            {"targets": [f"127.0.0.1:{port}"], "labels": {"instance": f"replica {number}"}}
            for number, port in enumerate(ports, start=1)
        ]
        scrape = {"job_name": JOB, "static_configs": targets}
        found = stack.enter_context(prometheus(folder / "prometheus", ports, scrape, SHORTENED))
        until(lambda: len(found.query("up == 1")) == 2 and not found.firing(), 60)
        events = play(services)
        start, end = events[0][0], time.time()
        figure = draw(found, events, start, end)
    drawn = io.BytesIO()
    figure.savefig(drawn, format="png")
    Image.open(drawn).convert("RGB").quantize(256, Image.Quantize.MAXCOVERAGE, kmeans=2).save(PICTURE, optimize=True)


if __name__ == "__main__":
    main()
