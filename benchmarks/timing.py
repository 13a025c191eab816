"""What one run of a piece of code costs, in CPU time and in wall time."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple


class Cost(NamedTuple):
    """Seconds for one run."""

    cpu_s: float  # of all threads of this process
    wall_s: float


def cost(step: Callable[[], object], seconds: float, *, warm_up: int = 1) -> Cost:
    """The mean over as many runs as fit into `seconds`, at least one, after `warm_up` runs that do not count."""
    for _ in range(warm_up):
        step()
    runs, cpu, start = 0, time.process_time(), time.perf_counter()
    while not runs or time.perf_counter() < start + seconds:
        step()
        runs += 1
    return Cost((time.process_time() - cpu) / runs, (time.perf_counter() - start) / runs)
