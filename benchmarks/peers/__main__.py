"""Throughput, latency, CPU time and memory of our service beside other model servers.

python -m benchmarks.peers [--rounds 3] [--seconds 4] [--peers a,b] [--engines fp32,int8,ours] [--open-loop]
                           [--service=--provider=cpu] [--json FILE] [--plot FILE]
python -m benchmarks.peers --rounds 0                     # makes the environments and the model, measures nothing
python -m benchmarks.peers --from FILE [--plot FILE]      # prints a saved run, measures nothing
"""

from __future__ import annotations

import argparse
import json
import shlex
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.machine import describe, heading, save
from benchmarks.models import RESNET50, published
from benchmarks.peers.catalogue import peers
from benchmarks.peers.measuring import OPEN_LOOP_TIMES, Plan, Setting, measure
from benchmarks.peers.model import ENGINES
from benchmarks.peers.report import markdown, plot
from benchmarks.photo import photo


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers", description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=3, help="(default: 3)")
    parser.add_argument(
        "--seconds", type=int, default=4, help="of closed loop at each number of connections (default: 4)"
    )
    parser.add_argument(
        "--peers", type=_names(tuple(peers())), default=tuple(peers()), help=f"(default: {','.join(peers())})"
    )
    parser.add_argument(
        "--engines",
        type=_names(ENGINES),
        default=("fp32", "int8"),
        help="in the peers: ONNX Runtime in fp32 or int8, or ours in int8 (default: fp32,int8)",
    )
    parser.add_argument("--open-loop", action="store_true", help="also measure the open loop")
    parser.add_argument(
        "--service", type=shlex.split, default=(), help="options for our service: --service='--a=1 --b=2'"
    )
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="also save the figures of every round and the machine here"
    )
    parser.add_argument("--plot", type=Path, metavar="FILE", help="also plot them to this PNG file")
    parser.add_argument(
        "--from", dest="source", type=Path, metavar="FILE", help="print the run that --json saved here instead"
    )
    return parser.parse_args()


def _names(known: Sequence[str]) -> Callable[[str], tuple[str, ...]]:
    """Parses an argument: names separated by commas."""

    def names(text: str) -> tuple[str, ...]:
        chosen = tuple(text.split(","))
        if unknown := [name for name in chosen if name not in known]:
            raise argparse.ArgumentTypeError(f"unknown: {', '.join(unknown)}; choose from {', '.join(known)}")
        return chosen

    return names


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Measures, and returns the content of the file that --json saves."""
    model = published(RESNET50, "int8")
    plan = Plan(args.rounds, args.seconds, args.open_loop)
    by_name = peers(args.service)
    settings = measure([by_name[name] for name in args.peers], args.engines, model, photo(), plan)
    return {
        "machine": describe(),
        "plan": plan._asdict(),
        "engines": args.engines,
        "service": args.service,
        "jpeg_bytes": len(photo()),
        "settings": [asdict(setting) for setting in settings],
    }


def preface(found: dict[str, Any]) -> str:
    """The machine and the plan of a run."""
    lines = [heading(found["machine"])]
    plan = Plan(**found["plan"])
    lines.append(
        f"ResNet-50, one JPEG of {found['jpeg_bytes']} bytes, 500x375; wrk on the same machine, {plan.seconds} s at "
        f"each number of connections; medians of {plan.rounds} rounds"
    )
    if plan.open_loop:
        lines.append(
            f"open loop: Poisson arrivals for {OPEN_LOOP_TIMES * plan.seconds} s at each rate, in % of the server's "
            "highest rate in the closed loop of the same round"
        )
    if found["service"]:
        lines.append(f"options of our service: {shlex.join(found['service'])}")
    return "\n".join(lines)


def main() -> None:
    args = parse()
    found = json.loads(args.source.read_text()) if args.source else run(args)
    if args.json:
        save(args.json, **found)
    settings = [Setting(**entry) for entry in found["settings"]]
    print(preface(found), markdown(settings, found["engines"]), sep="\n\n")
    if args.plot:
        plot(settings, found["engines"], args.plot)


if __name__ == "__main__":
    main()
