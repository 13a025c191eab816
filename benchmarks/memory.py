"""Whether the service's memory stays flat: resident MB after every tenth of many requests.

python -m benchmarks.memory [--requests 100000] [--models-dir DIR --model NAME] [--json FILE]
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from tqdm import tqdm

from benchmarks import wrk
from benchmarks.machine import describe, save
from benchmarks.models import NAME, resnet50
from benchmarks.photo import photo
from benchmarks.serving import resident_mb, service

CONNECTIONS = 32
STEPS = 10
SECONDS = 10  # of load between two looks at the counter


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.memory", description=__doc__.partition("\n")[0])
    parser.add_argument("--requests", type=int, default=100_000)
    parser.add_argument("--models-dir", type=Path, help="(default: the benchmarks' own, with a ResNet-50)")
    parser.add_argument("--model", default=NAME, help=f"(default: {NAME})")
    parser.add_argument("--json", type=Path, help="also write the results and the machine here")
    args = parser.parse_args()
    root = args.models_dir or resnet50()
    found: dict[int, float] = {}
    options = {"models-dir": root, "models": args.model}
    with (
        tempfile.TemporaryDirectory() as folder,
        service(options) as running,
        tqdm(total=args.requests, unit="request") as bar,
    ):
        found[0] = resident_mb(running.pid)
        done = 0
        while done < args.requests:
            load = wrk.run(running.url, photo(), connections=CONNECTIONS, seconds=SECONDS, folder=Path(folder))
            answered = round(load.images_per_second * SECONDS)
            bar.update(answered)
            if done * STEPS // args.requests != (done + answered) * STEPS // args.requests:
                found[done + answered] = resident_mb(running.pid)
            done += answered
        model = running.model()
    print("\n".join(f"{name}: {value}" for name, value in describe().items()))
    print(f"{args.model} on {model['provider']} in {model['precision']}, {CONNECTIONS} connections\n")
    print("| requests | RSS MB |\n|---|---|")
    for requests, megabytes in found.items():
        print(f"| {requests} | {megabytes:.0f} |")
    if args.json:
        save(args.json, machine=describe(), model=model, resident_mb=found)


if __name__ == "__main__":
    main()
