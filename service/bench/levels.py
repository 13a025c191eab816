"""What was measured at one level of load, as numbers, as a line of a table and as JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from service.bench.requests import percentile

PERCENTS = (50.0, 90.0, 99.0, 99.9)
BUSY = 0.9  # of a core; a load whose maker was busier may have been limited by it
HEADING = (
    f"{'load':>18} {'answers':>9} {'images/s':>9} {'p50 ms':>9} {'p90 ms':>9} {'p99 ms':>9} {'p99.9 ms':>9}  refused"
)


class Level(NamedTuple):
    """One level of load.

    Attributes:
        connections: of a closed loop; None for an open one.
        rate: requests per second on average, of an open loop; None for a closed one.
        seconds: that answers came in.
        latencies: of the answers with status 200, in milliseconds, ascending. In a closed loop from when the request
            was sent; in an open one from when it was due, whether it could be sent then or not.
        refusals: other answers, and requests without any, by name.
        cpu: seconds that making the load took.
    """

    connections: int | None
    rate: float | None
    seconds: float
    latencies: Sequence[float]
    refusals: Mapping[str, int]
    cpu: float

    @property
    def name(self) -> str:
        if self.connections is None:
            return f"{self.rate:g} requests/s"
        return f"{self.connections} connection{'s' if self.connections > 1 else ''}"

    @property
    def per_second(self) -> float:
        return len(self.latencies) / self.seconds

    @property
    def limited(self) -> bool:
        """Whether the maker of the load may have been slower than the server."""
        return self.cpu > BUSY * self.seconds

    def percentile(self, percent: float) -> float | None:
        """In milliseconds; None if too few answers came for one of them to be above it."""
        if len(self.latencies) * (100 - percent) < 100 - 1e-6:
            return None
        return percentile(self.latencies, percent)

    def line(self) -> str:
        """A line of the table below `HEADING`."""
        cells = [self.percentile(percent) for percent in PERCENTS]
        shown = " ".join(f"{'–' if cell is None else f'{cell:.1f}':>9}" for cell in cells)
        refused = ", ".join(f"{count} × {name}" for name, count in sorted(self.refusals.items())) or "0"
        return f"{self.name:>18} {len(self.latencies):>9} {self.per_second:>9.1f} {shown}  {refused}"

    def as_json(self) -> dict[str, Any]:
        """`above`: how many answers were slower than the percentile: what it rests on."""
        found = {}
        for percent in PERCENTS:
            value = self.percentile(percent)
            if value is not None:
                above = sum(latency > value for latency in self.latencies)
                found[f"p{percent:g}"] = {"ms": round(value, 3), "above": above}
        return {
            "loop": "open" if self.connections is None else "closed",
            "connections": self.connections,
            "rate": self.rate,
            "seconds": round(self.seconds, 3),
            "answers": len(self.latencies),
            "images_per_second": round(self.per_second, 2),
            "latency": found,
            "refusals": dict(self.refusals),
            "load_maker_cpu": round(self.cpu / self.seconds, 3),
        }
