"""The Grafana dashboard deploy/grafana/resnet-service.json: its panels, and their queries as Prometheus takes them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

DASHBOARD = Path(__file__).parents[1] / "deploy" / "grafana" / "resnet-service.json"


class Query(NamedTuple):
    """`legend`: with labels in double braces, as Grafana writes it."""

    expression: str
    legend: str

    def name(self, labels: dict[str, str]) -> str:
        """The legend of a series with these labels."""
        return re.sub(r"\{\{(\w+)\}\}", lambda found: labels.get(found[1], ""), self.legend)


class Panel(NamedTuple):
    """Attributes:
    row: the title of the row that it is in; empty before the first.
    kind: `timeseries`, `stat`, `heatmap` or `table`.
    unit: Grafana's name for it; empty if there is none.
    stacked: whether its series are drawn on top of each other.
    thresholds: from which value on which colour holds.
    """

    row: str
    title: str
    kind: str
    unit: str
    stacked: bool
    thresholds: list[tuple[float, str]]
    queries: list[Query]


def read_dashboard(window: str) -> Iterator[Panel]:
    """The panels in their order, for all replicas and models.

    Args:
        window: in place of `$__rate_interval`, which Grafana makes of the time shown and the scrape interval: "15s".
    """
    row = ""
    for panel in json.loads(DASHBOARD.read_text())["panels"]:
        if panel["type"] == "row":
            row = panel["title"]
            continue
        defaults: dict[str, Any] = panel["fieldConfig"]["defaults"]
        yield Panel(
            row,
            panel["title"],
            panel["type"],
            defaults.get("unit", ""),
            defaults.get("custom", {}).get("stacking", {}).get("mode") == "normal",
            [(step["value"] or 0, step["color"]) for step in defaults.get("thresholds", {}).get("steps", [])],
            [Query(_filled(target["expr"], window), target["legendFormat"]) for target in panel["targets"]],
        )


def _filled(expression: str, window: str) -> str:
    """A query with a value for each variable. Raises ValueError if one is left."""
    for name, value in {"$__rate_interval": window, "$job": ".*", "$instance": ".*", "$model": ".*"}.items():
        expression = expression.replace(name, value)
    if "$" in expression:
        raise ValueError(f"a variable without a value: {expression}")
    return expression
