"""Tables in Markdown, and repeated measurements as a median with its range."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any


def markdown_table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of cells that are formatted already."""
    lines = [titles, ["---"] * len(titles), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, lowest and highest of repeated measurements."""
    return {"median": statistics.median(values), "lowest": min(values), "highest": max(values)}


def with_range(figures: Mapping[str, float], digits: int = 1) -> str:
    """A `spread` as text: median (lowest–highest)."""
    median, lowest, highest = (f"{figures[name]:.{digits}f}" for name in ("median", "lowest", "highest"))
    return f"{median} ({lowest}–{highest})"


def medians(row: Mapping[str, Any]) -> dict[str, float]:
    """The median of every entry of a row that is a `spread`, by name."""
    return {name: value["median"] for name, value in row.items() if isinstance(value, dict)}
