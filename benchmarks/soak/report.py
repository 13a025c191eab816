"""What came of a soak: figures, complaints, and the file of both."""

from __future__ import annotations

import itertools
import math
import statistics
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from benchmarks.soak.faults import FILL
from benchmarks.soak.hostile import BODIES
from benchmarks.soak.running import DESCRIPTORS_MORE, MEMORY_BUDGET, Outcome
from benchmarks.soak.sampling import Sample, Tree

# Bounds. Beyond the memory that a replica had at the start, it may take its budget for requests, and a quarter more for
# what the budget does not count: a second version, the allocator's gaps.
MOST_MORE_MB = 1.25 * MEMORY_BUDGET / 1e6
MOST_GROWTH_MB = 20.0  # per 100,000 requests: only if the whole interval is above this, memory grows

BLOCK_S = 30  # memory is averaged over so long: neighbouring seconds are not independent
WARM_UP_BLOCKS = 2  # of each stretch between restarts, which do not count
LEAST_BLOCKS = 8  # for a slope
RESAMPLES = 10_000
ROWS = 500  # of the file, at most


class Slope(NamedTuple):
    """MB (PSS) per 100,000 requests, with the ends of the 95 % interval."""

    mean: float
    low: float
    high: float
    requests: int  # that it is drawn from
    stretches: int


def stretches(samples: Sequence[Sample], name: str) -> Iterator[list[Tree]]:
    """The samples of a replica between two changes of its processes."""
    for _, same in itertools.groupby((sample.trees[name] for sample in samples), key=lambda tree: tree.pids):
        yield list(same)


def blocks(stretch: Sequence[Tree]) -> np.ndarray:
    """Means of requests and PSS, (n, 2), over blocks of a stretch after its warm-up."""
    figures = np.array([(tree.answered, tree.pss) for tree in stretch])
    count = len(figures) // BLOCK_S
    means: np.ndarray = figures[: count * BLOCK_S].reshape(count, BLOCK_S, 2).mean(axis=1)
    return means[WARM_UP_BLOCKS:]


def slope(samples: Sequence[Sample], name: str) -> Slope | None:
    """How much a replica's memory grows with its requests: one line for each stretch, all of the same slope.

    The interval is a percentile bootstrap of the blocks, with a fixed seed. None if there are too few of them.
    """
    parts = [part for stretch in stretches(samples, name) if len(part := blocks(stretch)) > 1]
    if sum(map(len, parts)) < LEAST_BLOCKS:
        return None
    centred = np.concatenate([part - part.mean(axis=0) for part in parts])
    chosen = np.random.default_rng(0).integers(0, len(centred), (RESAMPLES, len(centred)))
    x, y = centred[:, 0] / 1e5, centred[:, 1]
    slopes = (x[chosen] * y[chosen]).sum(axis=1) / (x[chosen] ** 2).sum(axis=1)
    low, high = np.percentile(slopes, [2.5, 97.5])
    requests = sum(int(part[-1, 0] - part[0, 0]) for part in parts)
    return Slope(float((x * y).sum() / (x * x).sum()), float(low), float(high), requests, len(parts))


def complaints(outcome: Outcome) -> list[str]:
    """What should not have happened. Empty if the soak is passed."""
    ledger, log = outcome.ledger, outcome.access_log
    found = list(ledger.complaints)
    if lost := ledger.outcomes["lost"]:
        found.append(f"{lost} requests of good clients were lost, the first: {ledger.losses[0]}")
    if settled := len(ledger.sent) - ledger.outcomes.total():
        found.append(f"{settled} requests of good clients have no outcome")
    if several := [number for number, times in log.good.items() if times > 1]:
        found.append(f"{len(several)} requests were answered more than once, such as {several[0]}")
    if missing := ledger.answered - log.good.keys():
        found.append(f"{len(missing)} requests were answered by no balancer, such as {min(missing)}")
    for kind, statuses in ledger.hostile.items():
        if failed := {status: statuses[status] for status in (500, None) if statuses[status]}:
            found.append(f"hostile bodies ({kind}) were answered {failed}")
    if not ledger.outcomes["right"]:
        found.append("no request was answered")
    found += [f"no hostile body was tried: {kind}" for kind in BODIES if not ledger.hostile[kind]]
    found += [f"no fault happened: {kind}" for kind in outcome.impossible if kind != FILL]
    for name, start in outcome.start.items():
        found += _of_replica(outcome, name, start)
    return found


def _of_replica(outcome: Outcome, name: str, start: Tree) -> Iterator[str]:
    end = outcome.end[name]
    if end.descriptors > start.descriptors + DESCRIPTORS_MORE:
        yield f"{name} holds {end.descriptors} descriptors, {start.descriptors} at the start"
    peak = max(sample.trees[name].pss for sample in outcome.samples)
    if peak > start.pss + MOST_MORE_MB:
        yield f"{name} took {peak:.0f} MB, {start.pss:.0f} at the start"
    growth = slope(outcome.samples, name)
    if growth and growth.low > MOST_GROWTH_MB:
        yield f"{name} grows by {growth.mean:.1f} MB per 100,000 requests"


def summary(outcome: Outcome) -> str:
    ledger, outcomes = outcome.ledger, outcome.ledger.outcomes
    lines = [
        f"{outcome.seconds / 3600:.2f} hours, seed {outcome.plan.seed}",
        f"requests of good clients: {outcomes.total()}, of them right {outcomes['right']}, 503 with Retry-After "
        f"{outcomes['busy']}, past their own deadline {outcomes['late']}, lost {outcomes['lost']}; replayed by the "
        f"balancer {outcome.access_log.replayed}",
        *(f"  503, {title}: {count}" for title, count in ledger.busy.items()),
        f"clients that left, dawdled or were idle: {_counts(ledger.strangers)}",
        f"hostile bodies: {sum(statuses.total() for statuses in ledger.hostile.values())}",
        *(f"  {kind}: {_counts(statuses)}" for kind, statuses in sorted(ledger.hostile.items())),
        f"faults: {len(ledger.faults)}",
        *(f"  {kind}: {count}" for kind, count in Counter(event.kind for event in ledger.faults).items()),
        *(f"  {kind}: not possible here" for kind in outcome.impossible),
        f"restarts: {_counts(ledger.restarts)}",
    ]
    for name, start in outcome.start.items():
        growth, end = slope(outcome.samples, name), outcome.end[name]
        text = "too short to say"
        if growth:
            text = f"{growth.mean:+.1f} MB per 100,000 requests (95 %: {growth.low:+.1f} to {growth.high:+.1f})"
        peak = max(sample.trees[name].pss for sample in outcome.samples)
        lines += [
            f"{name}: PSS {start.pss:.0f} MB at the start, {peak:.0f} at most, {end.pss:.0f} at the end; {text}",
            f"{name}: descriptors {start.descriptors} at the start, {end.descriptors} at the end; threads "
            f"{start.threads} and {end.threads}",
        ]
    return "\n".join(lines)


def _counts(counts: Counter[Any]) -> str:
    return ", ".join(f"{name} {count}" for name, count in sorted(counts.items(), key=lambda item: str(item[0])))


def downsampled(samples: Sequence[Sample]) -> list[list[Sample]]:
    """Neighbouring samples together, so that at most `ROWS` groups remain."""
    size = max(1, math.ceil(len(samples) / ROWS))
    return [list(samples[start : start + size]) for start in range(0, len(samples), size)]


def content(outcome: Outcome) -> dict[str, Any]:
    """The figures for the file: sums of requests, the highest of the rest, over each group of seconds."""
    groups = downsampled(outcome.samples)

    def column(figure: str, digits: int = 1) -> list[float | None]:
        values = [[getattr(sample, figure) for sample in group] for group in groups]
        highest = [max((value for value in some if not math.isnan(value)), default=None) for some in values]
        return [None if value is None else round(value, digits) for value in highest]

    def mean_rate(figure: str) -> list[float]:
        return [round(statistics.mean(getattr(sample, figure) for sample in group), 1) for group in groups]

    def of_tree(name: str, figure: str) -> list[float]:
        return [round(max(getattr(sample.trees[name], figure) for sample in group)) for group in groups]

    ledger = outcome.ledger
    slopes = {name: slope(outcome.samples, name) for name in outcome.start}
    return {
        "hours": round(outcome.seconds / 3600, 3),
        "seed": outcome.plan.seed,
        "models": list(outcome.plan.models),
        "requests": dict(ledger.outcomes),
        "busy": dict(ledger.busy),
        "replayed": outcome.access_log.replayed,
        "losses": ledger.losses,
        "failed": outcome.access_log.failed,
        "complaints": complaints(outcome),
        "hostile": {
            kind: {str(status): count for status, count in statuses.items()}
            for kind, statuses in ledger.hostile.items()
        },
        "strangers": dict(ledger.strangers),
        "restarts": dict(ledger.restarts),
        "faults": [
            [round(event.at, 1), round(ended - event.at, 1), event.kind]
            for event, ended in zip(ledger.faults, ledger.ended, strict=True)
        ],
        "impossible": outcome.impossible,
        "growth": {name: growth._asdict() if growth else None for name, growth in slopes.items()},
        "start": {name: _tree(tree) for name, tree in outcome.start.items()},
        "end": {name: _tree(tree) for name, tree in outcome.end.items()},
        "series": {
            "seconds": [round(group[0].at, 1) for group in groups],
            "p50_ms": column("p50"),
            "p99_ms": column("p99"),
            **{f"{name}_per_second": mean_rate(name) for name in ("right", "busy", "late", "lost")},
            **{
                name: {figure: of_tree(name, figure) for figure in ("pss", "rss", "descriptors", "threads")}
                for name in outcome.start
            },
        },
    }


def _tree(tree: Tree) -> dict[str, float]:
    return {name: round(value, 1) for name, value in tree._asdict().items() if name != "pids"}
