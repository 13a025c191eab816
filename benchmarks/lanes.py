"""How the cores are best divided among batches on ONNX Runtime's CPU provider: the engine alone, no HTTP.

    python -m benchmarks.lanes [--precision int8] [--rounds 5] [--seconds 2] [--json FILE]

Three ways, measured in turn: one caller on all cores; as many callers as cores in that same session; as many callers in
a session of one thread.
"""

from __future__ import annotations

import argparse
import resource
import threading
import time
from collections import defaultdict
from pathlib import Path

import numpy as np
from tqdm import tqdm

from benchmarks.machine import describe, save
from benchmarks.models import latest, resnet50
from benchmarks.spread import spread
from service.card import MODEL_FILES
from service.engine import FILES
from service.providers import Session, open_session, usable_cores

SIZES = (1, 2, 4, 8)


def measure(session: Session, callers: int, size: int, seconds: float) -> tuple[float, float]:
    """Images/s and CPU-ms an image of so many callers, each with batches of `size`."""
    images = np.random.default_rng(0).integers(0, 256, (size, 3, 224, 224), dtype=np.uint8)
    done = [0] * callers
    end = time.perf_counter() + seconds

    def call(caller: int) -> None:
        while time.perf_counter() < end:
            session.ort.run(["logits"], {"image": images})
            done[caller] += size

    before, started = _cpu_seconds(), time.perf_counter()
    threads = [threading.Thread(target=call, args=(caller,)) for caller in range(callers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(done) / (time.perf_counter() - started), 1000 * (_cpu_seconds() - before) / sum(done)


def _cpu_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.lanes", description=__doc__.partition("\n")[0])
    parser.add_argument("--precision", choices=("int8", "fp32"), default="int8")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2)
    parser.add_argument("--json", type=Path, help="also write the results and the machine here")
    args = parser.parse_args()
    path = latest(resnet50()) / MODEL_FILES[FILES[args.precision]]
    cores = usable_cores()
    shared = open_session(path, "cpu", args.precision, threads=cores)
    narrow = open_session(path, "cpu", args.precision, threads=cores, streams=cores)
    ways = {
        "one caller, all cores": (shared, 1),
        f"{cores} callers in that session": (shared, cores),
        f"{cores} callers in a session of one thread": (narrow, cores),
    }
    runs = [(way, size) for way in ways for size in SIZES]
    for way, size in runs:
        measure(*ways[way], size, 0.2)
    found = defaultdict(list)
    for _ in tqdm(range(args.rounds), unit="round"):
        for way, size in runs:
            found[way, size].append(measure(*ways[way], size, args.seconds))
    rows = [
        {
            "way": way,
            "batch": size,
            "images_per_second": spread([rate for rate, _ in values]),
            "cpu_ms": spread([cpu for _, cpu in values]),
        }
        for (way, size), values in found.items()
    ]
    print("\n".join(f"{name}: {value}" for name, value in describe().items()))
    print(f"ResNet-50 in {args.precision}, medians of {args.rounds} rounds\n")
    print("| | batch | images/s | CPU-ms an image |\n|---|---:|---:|---:|")
    for (way, size), values in found.items():
        rate, cpu = np.median(values, axis=0)
        print(f"| {way} | {size} | {rate:.1f} | {cpu:.1f} |")
    if args.json:
        save(args.json, machine=describe(), precision=args.precision, rounds=args.rounds, rows=rows)


if __name__ == "__main__":
    main()
