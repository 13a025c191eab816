"""What hostile clients do to the others: latencies and memory without them and beside them.

Four connections send the photograph, each again as soon as it is answered. For every attack of
`benchmarks.hostile_uploads` there are pairs of such loads, one without the attack and one beside it, in turn: every
second pair begins with the other. The attack's own work counts against the service, since both share the machine.

    python -m benchmarks.slow_clients [--rounds 5] [--seconds 20] [--attacks WORD ...] [--json FILE]
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from benchmarks.hostile_clients import Attack, attacking
from benchmarks.hostile_uploads import attacks
from benchmarks.machine import RESULTS, describe, heading, save
from benchmarks.models import RESNET50, published
from benchmarks.photo import photo
from benchmarks.processes import cpu_seconds, forget_peak, peak_mb, resident_mb
from benchmarks.regression import Ratio, compare
from benchmarks.serving import Running, model_options, service
from benchmarks.tables import markdown_table, spread, with_range
from service.bench.closed_loop import drive
from service.bench.requests import Upload, percentile

CONNECTIONS = 4
WARM_UP_S = 5.0
QUIET_S = 60.0  # for the service to have no more work after an attack
CLOSED = "resnet_connections_closed_total"

TITLES = (
    "beside",
    "p50 ms without",
    "p50 ms beside",
    "p99 ms without",
    "p99 ms beside",
    "ratio of the p99 (95 %)",
    "failed",
    "peak beyond idle, MB",
    "without, MB",
    "connections that the service closed",
    "what the clients got",
)


class Measured(NamedTuple):
    """One load of good clients: latencies in milliseconds, memory in units of 1000 KiB."""

    answered: int
    failed: int
    p50: float
    p99: float
    peak_mb: float  # beyond idle, of all processes
    closed: Counter[str]  # connections that the service closed, by reason
    ends: Counter[str]  # how the connections of the attack ended


def measure(running: Running, attack: Attack | None, seconds: float, idle_mb: float) -> Measured:
    """Loads the service, without an attack or beside one, and waits until it is quiet again.

    Raises:
        RuntimeError: the service is still busy a minute later.
    """
    pids = running.pids()
    for pid in pids:
        forget_peak(pid)
    before = running.counter(CLOSED, "reason")
    ends: Counter[str] = Counter()
    if attack is None:
        load = drive(running.url, [Upload(photo())], CONNECTIONS, seconds)
    else:
        with attacking(attack, running.url) as ends:
            load = drive(running.url, [Upload(photo())], CONNECTIONS, seconds)
    closed = running.counter(CLOSED, "reason") - before
    until_quiet(pids)
    peak = sum(map(peak_mb, pids)) - idle_mb
    milliseconds = sorted(1000 * latency for latency in load.latencies) or [1000 * seconds]  # nobody waited less
    p50, p99 = percentile(milliseconds, 50), percentile(milliseconds, 99)
    return Measured(len(load.latencies), load.failed, p50, p99, peak, closed, ends)


def until_quiet(pids: Sequence[int]) -> None:
    """Returns once these processes compute next to nothing. Raises RuntimeError after `QUIET_S`."""
    deadline = time.monotonic() + QUIET_S
    while time.monotonic() < deadline:
        before = cpu_seconds(pids)
        time.sleep(0.5)
        if cpu_seconds(pids) - before <= 0.02:
            return
    raise RuntimeError(f"the service is still busy after {QUIET_S:g} s")


def pairs(
    running: Running, attack: Attack, rounds: int, seconds: float, idle_mb: float
) -> list[tuple[Measured, Measured]]:
    """The loads without and beside an attack, in this order, of every round."""
    found = []
    for number in range(rounds):
        if number % 2 == 0:
            without = measure(running, None, seconds, idle_mb)
            beside = measure(running, attack, seconds, idle_mb)
        else:
            beside = measure(running, attack, seconds, idle_mb)
            without = measure(running, None, seconds, idle_mb)
        found.append((without, beside))
    return found


def row(name: str, rounds: Sequence[tuple[Measured, Measured]]) -> tuple[list[str], Ratio]:
    """The cells of one attack, and the ratio of its p99s."""
    without, beside = zip(*rounds, strict=True)
    ratio = compare([each.p99 for each in without], [each.p99 for each in beside])
    cells = [name]
    for figure in ("p50", "p99"):
        cells += [with_range(spread([getattr(each, figure) for each in loads])) for loads in (without, beside)]
    cells.append(f"{ratio.mean:.2f} ({ratio.low:.2f}–{ratio.high:.2f})")
    cells.append(f"{sum(each.failed for each in beside)} of {sum(each.failed + each.answered for each in beside)}")
    cells += [f"{max(each.peak_mb for each in loads):.0f}" for loads in (beside, without)]
    cells += [counted(each.closed for each in beside), counted(each.ends for each in beside)]
    return cells, ratio


def counted(counters: Iterable[Counter[str]]) -> str:
    """The sum of counters, the largest first."""
    return ", ".join(f"{count} {name}" for name, count in sum(counters, Counter[str]()).most_common()) or "–"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.slow_clients", description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5, help="pairs of loads for every attack (default: 5)")
    parser.add_argument("--seconds", type=float, default=20, help="of each load (default: 20)")
    parser.add_argument(
        "--attacks", nargs="+", metavar="WORD", default=[""], help="only those with one of these in their name"
    )
    parser.add_argument(
        "--json",
        type=Path,
        metavar="FILE",
        default=RESULTS / "slow_clients.json",
        help="save the figures and the machine here (default: benchmarks/results/slow_clients.json)",
    )
    args = parser.parse_args()
    machine = describe()
    plan = {"rounds": args.rounds, "seconds": args.seconds, "connections": CONNECTIONS}
    rows, cells = [], []
    with service(model_options(published(RESNET50, "int8"))) as running:
        drive(running.url, [Upload(photo())], CONNECTIONS, WARM_UP_S)
        until_quiet(running.pids())
        idle_mb = sum(map(resident_mb, running.pids()))
        chosen = [each for each in attacks(running.url) if any(word in each.name for word in args.attacks)]
        for attack in (bar := tqdm(chosen, unit="attack")):
            bar.set_description(attack.name)
            found = pairs(running, attack, args.rounds, args.seconds, idle_mb)
            line, ratio = row(attack.name, found)
            cells.append(line)
            rounds = [dict(zip(("without", "beside"), map(Measured._asdict, pair), strict=True)) for pair in found]
            rows.append({"attack": attack.name, "p99_ratio": ratio._asdict(), "rounds": rounds})
            save(args.json, machine=machine, plan=plan, idle_mb=idle_mb, rows=rows)  # what follows may fail
    print(heading(machine))
    print(f"ResNet-50, {CONNECTIONS} connections, idle {idle_mb:.0f} MB")
    print(f"medians of {args.rounds} rounds of {args.seconds:g} s (lowest–highest); the ratio is a geometric mean\n")
    print(markdown_table(TITLES, cells))


if __name__ == "__main__":
    main()
