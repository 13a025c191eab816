"""Mixed load, faults and hostile input for a given time, against two replicas behind nginx with docker/nginx.conf.

One replica is a single process, the other has two workers. Good clients know the right answers; meanwhile others leave,
dawdle or send hostile bodies, processes are killed and stopped, and versions come and go. The exit status is 1 if a
good client lost anything, if a fault was not followed by what should follow it, or if memory or descriptors grow.

    python -m benchmarks.soak [--seconds 3600] [--seed 0] [--json FILE] [--plot FILE]
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from benchmarks.machine import describe, heading, save
from benchmarks.models import RESNET8, RESNET50, published
from benchmarks.soak.ledger import Ledger
from benchmarks.soak.picture import plot
from benchmarks.soak.report import complaints, content, summary
from benchmarks.soak.running import Plan, soak
from benchmarks.soak.sampling import Sample


def show(sample: Sample, ledger: Ledger) -> None:
    """Progress, on one line that is written over every second."""
    memory = " ".join(f"{tree.pss:.0f}" for tree in sample.trees.values())
    fault = ledger.faults[-1].kind if ledger.faults else ""
    print(
        f"\r{sample.at:.0f} s, {ledger.outcomes.total()} requests, {ledger.outcomes['lost']} lost, "
        f"{len(ledger.complaints)} complaints, {memory} MB, {len(ledger.faults)} faults: {fault}\033[K",
        end="",
        file=sys.stderr,
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak", description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=3600, help="at least (default: 3600)")
    parser.add_argument("--seed", type=int, default=0, help="of what happens when (default: 0)")
    for option, default in (("json", "benchmarks/results/soak.json"), ("plot", "docs/images/soak.png")):
        parser.add_argument(
            f"--{option}", type=Path, metavar="FILE", default=Path(default), help="(default: %(default)s)"
        )
    args = parser.parse_args()
    roots = [published(architecture).parent.parent for architecture in (RESNET8, RESNET50)]
    machine = describe()
    outcome = soak(Plan(args.seconds, args.seed, roots[0], [RESNET8.name, RESNET50.name]), show)
    print(file=sys.stderr)
    found = content(outcome)
    save(args.json, machine=machine, **found)
    plot(found, args.plot)
    print(heading(machine))
    print(summary(outcome))
    failed = complaints(outcome)
    for complaint in failed:
        print(f"FAILED: {complaint}")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
