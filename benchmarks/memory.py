"""Whether the service's memory stays flat: resident memory after every tenth of many requests.

python -m benchmarks.memory [--requests 100000] [--models-dir DIR --model NAME] [--json FILE]
"""

from __future__ import annotations

import argparse
from pathlib import Path

from tqdm import tqdm

from benchmarks import wrk
from benchmarks.machine import describe, heading, save
from benchmarks.models import RESNET50, published
from benchmarks.photo import photo
from benchmarks.processes import resident_mb
from benchmarks.serving import service
from benchmarks.tables import markdown_table

CONNECTIONS = 32
STEPS = 10
SECONDS = 10  # of each load; after it the requests are counted


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.memory", description=__doc__.partition("\n")[0])
    parser.add_argument("--requests", type=int, default=100_000, help="(default: 100000)")
    parser.add_argument(
        "--models-dir",
        type=Path,
        metavar="DIR",
        help="the folder with --model (default: that of the benchmarks, with a ResNet-50)",
    )
    parser.add_argument("--model", default=RESNET50.name, help=f"(default: {RESNET50.name})")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also save the results and the machine here")
    args = parser.parse_args()
    root = args.models_dir or published(RESNET50, "int8").parent.parent
    machine = describe()
    found: dict[int, float] = {}
    options = {"models-dir": root, "models": args.model}
    with service(options) as running, tqdm(total=args.requests, unit="request") as bar:
        found[0] = resident_mb(running.pid)
        done = 0
        while done < args.requests:
            load = wrk.run(running.url, photo(), connections=CONNECTIONS, seconds=SECONDS)
            answered = round(load.images_per_second * SECONDS)
            bar.update(answered)
            if done * STEPS // args.requests != (done + answered) * STEPS // args.requests:
                found[done + answered] = resident_mb(running.pid)
            done += answered
        model = running.model()
    print(heading(machine))
    print(f"{args.model} on {model['provider']} in {model['precision']}, {CONNECTIONS} connections\n")
    print(markdown_table(["requests", "RSS MB"], [[str(requests), f"{mb:.0f}"] for requests, mb in found.items()]))
    if args.json:
        save(args.json, machine=machine, model=model, resident_mb=found)


if __name__ == "__main__":
    main()
