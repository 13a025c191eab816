"""The figures of a run as Markdown tables and as a plot."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from benchmarks.peers.catalogue import OURS
from benchmarks.peers.measuring import CONNECTIONS, LOADS, Setting
from benchmarks.peers.model import OURS_BESIDE, EngineName
from benchmarks.tables import markdown_table, spread, with_range

MOST = CONNECTIONS[-1]
TITLES: dict[EngineName, str] = {
    "fp32": "fp32 against fp32",
    "int8": "int8 against int8",
    "ours": "Our engine in every server (int8)",
}
OPEN = tuple(f"open{100 * share:.0f}" for share in LOADS)
BLUE, GREY = "#0072B2", "#9a9a9a"


def compared(settings: Sequence[Setting], engine: EngineName) -> list[Setting]:
    """The peers with this engine, and our service: fastest first, those without figures last."""
    beside = OURS_BESIDE[engine]
    chosen = [setting for setting in settings if setting.engine == (beside if setting.peer == OURS else engine)]
    return sorted(chosen, key=lambda setting: -(median(setting, f"{MOST}.per_second") or 0))


def median(setting: Setting, name: str) -> float | None:
    """The median of a figure over the rounds that have it; None without any."""
    values = [figures[name] for figures in setting.rounds if name in figures]
    return statistics.median(values) if values else None


def failures(setting: Setting) -> int:
    """Requests that failed, in all rounds and loads."""
    return round(
        sum(value for figures in setting.rounds for name, value in figures.items() if name.endswith(".failed"))
    )


def ratio(settings: Sequence[Setting], engine: EngineName, connections: int) -> tuple[float, str] | None:
    """Our throughput ÷ that of the fastest peer, and the peer's name; None if either is missing."""
    name = f"{connections}.per_second"
    rates = {setting.peer: median(setting, name) or 0.0 for setting in compared(settings, engine)}
    ours = rates.pop(OURS, 0.0)
    best = max(rates, key=lambda peer: rates[peer], default=None)
    if not ours or best is None or not rates[best]:
        return None
    return ours / rates[best], best


def markdown(settings: Sequence[Setting], engines: Sequence[EngineName]) -> str:
    """For each engine: a table of the closed loop, the ratios, a table of the open loop, and the errors."""
    parts = []
    for engine in engines:
        rows = compared(settings, engine)
        parts += [f"### {TITLES[engine]}", _closed_table(rows), _ratios(settings, engine)]
        if any(OPEN[0] + ".p50" in figures for setting in rows for figures in setting.rounds):
            parts.append(_open_table(rows))
        parts += [f"- **{setting.peer}**: {setting.error}" for setting in rows if setting.error]
    parts.append(_mixed(settings))
    return "\n\n".join(part for part in parts if part) + "\n"


def _closed_table(rows: Sequence[Setting]) -> str:
    levels = " / ".join(map(str, CONNECTIONS))
    titles = [
        "server",
        "version",
        *(f"req/s at {connections}" for connections in CONNECTIONS[:-1]),
        f"req/s at {MOST} (lowest–highest)",
        f"p50 ms at {levels}",
        f"p95 ms at {levels}",
        f"p99 ms at {levels}",
        f"CPU ms/request at {levels}",
        "PSS MB",
        "RSS MB",
        "failed",
    ]
    lines = []
    for setting in rows:
        rates = [figures[f"{MOST}.per_second"] for figures in setting.rounds]
        lines.append(
            [
                _name(setting),
                setting.version,
                *(_text(setting, f"{connections}.per_second") for connections in CONNECTIONS[:-1]),
                with_range(spread(rates)) if rates else "–",
                *(_at_levels(setting, name) for name in ("p50", "p95", "p99", "cpu_ms")),
                _text(setting, "memory.pss", digits=0),
                _text(setting, "memory.rss", digits=0),
                str(failures(setting)) if setting.rounds else "–",
            ]
        )
    return markdown_table(titles, lines)


def _open_table(rows: Sequence[Setting]) -> str:
    titles = ["server", *(f"p50 / p95 / p99 ms at {100 * share:.0f} % (req/s)" for share in LOADS)]
    lines = []
    for setting in rows:
        cells = []
        for load in OPEN:
            latencies = " / ".join(_text(setting, f"{load}.{name}") for name in ("p50", "p95", "p99"))
            cells.append(f"{latencies} ({_text(setting, f'{load}.offered')})")
        lines.append([_name(setting), *cells])
    return markdown_table(titles, lines)


def _ratios(settings: Sequence[Setting], engine: EngineName, title: str = "") -> str:
    found = [(connections, ratio(settings, engine, connections)) for connections in CONNECTIONS]
    texts = [f"{value[0]:.2f} at {connections} ({value[1]})" for connections, value in found if value]
    return f"{title}{OURS} ÷ the fastest peer, requests/s by connections: {', '.join(texts)}." if texts else ""


def _mixed(settings: Sequence[Setting]) -> str:
    """Our service in int8 ÷ the fastest peer in fp32: what both do where nobody chooses a precision."""
    ours = [setting for setting in settings if setting.peer == OURS and setting.engine == "int8"]
    peers = [setting for setting in settings if setting.peer != OURS and setting.engine == "fp32"]
    alike = [replace(setting, engine="fp32") for setting in ours] + peers
    return _ratios(alike, "fp32", "As users get them (int8 here, fp32 there): ")


def _name(setting: Setting) -> str:
    return f"**{setting.peer}**" if setting.peer == OURS else setting.peer


def _at_levels(setting: Setting, name: str) -> str:
    return " / ".join(_text(setting, f"{connections}.{name}") for connections in CONNECTIONS)


def _text(setting: Setting, name: str, digits: int = 1) -> str:
    value = median(setting, name)
    return "–" if value is None else f"{value:.{digits}f}"


def plot(settings: Sequence[Setting], engines: Sequence[EngineName], path: Path) -> None:
    """Writes a PNG: throughput and latency by server, a row of panels for each engine."""
    figure = Figure(figsize=(10, 3.2 * len(engines)), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(len(engines), 2, squeeze=False)
    for (throughput, latency), engine in zip(panels, engines, strict=True):
        rows = [setting for setting in reversed(compared(settings, engine)) if setting.rounds]
        _bars(throughput, rows, f"{MOST}.per_second", f"requests/s at {MOST} connections")
        _bars(latency, rows, f"{CONNECTIONS[1]}.p99", f"p99 latency at {CONNECTIONS[1]} connections, ms")
        throughput.set_title(TITLES[engine], loc="left", fontsize=11)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=100)


def _bars(panel: Axes, rows: Sequence[Setting], name: str, title: str) -> None:
    """Draws medians as bars, with a line from the lowest to the highest."""
    for position, setting in enumerate(rows):
        values = [figures[name] for figures in setting.rounds if name in figures]
        if not values:  # no answer came in time
            continue
        middle = statistics.median(values)
        panel.barh(position, middle, color=BLUE if setting.peer == OURS else GREY)
        panel.plot([min(values), max(values)], [position, position], color="black", linewidth=1.5)
        panel.annotate(
            f"{middle:.0f}", (max(*values, middle), position), (4, 0), textcoords="offset points", va="center"
        )
    panel.set_yticks(range(len(rows)), [setting.peer for setting in rows])
    panel.set_xlabel(title)
    panel.margins(x=0.12)
    panel.set_xlim(left=0)
    panel.spines[["top", "right"]].set_visible(False)
