"""The edges of histograms in settings."""

from __future__ import annotations

import math
from typing import Annotated

from pydantic import AfterValidator

# Seconds: from a ResNet-18 on a GPU to a ResNet-152 on one core under load, with the round numbers of objectives.
SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
MOST = 50  # each edge is a series for every model and stage


def _ascending(edges: tuple[float, ...]) -> tuple[float, ...]:
    if not edges or len(edges) > MOST or not all(0 < edge < math.inf for edge in edges) or sorted({*edges}) != [*edges]:
        raise ValueError(f"expected 1 to {MOST} numbers above 0, each larger than the one before, such as 0.01,0.1,1")
    return edges


Buckets = Annotated[tuple[float, ...], AfterValidator(_ascending)]
