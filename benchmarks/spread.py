"""Repeated measurements: a median, and how far they lie apart."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any


def spread(values: Sequence[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "lowest": min(values), "highest": max(values)}


def medians(row: Mapping[str, Any]) -> dict[str, float]:
    """Of all figures in a row of results that are spreads, by their names."""
    return {name: value["median"] for name, value in row.items() if isinstance(value, dict)}
