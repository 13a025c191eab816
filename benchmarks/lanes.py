"""How best to divide the cores among batches on ONNX Runtime's CPU provider.

The engine alone, without HTTP. Three ways alternate: one lane on all cores; as many lanes as cores, in that same
session; as many lanes as cores, in a session in which each lane has one thread. A lane runs one batch after the other,
beside the other lanes.

    python -m benchmarks.lanes [--precision int8] [--rounds 5] [--seconds 2] [--json FILE]
"""

from __future__ import annotations

import argparse
import threading
import time
from collections import defaultdict
from pathlib import Path

import numpy as np
from tqdm import tqdm

from benchmarks.machine import describe, heading, save
from benchmarks.models import RESNET50, published
from benchmarks.tables import markdown_table, spread, with_range
from service.runtime.choices import FILES
from service.runtime.graph import INPUT
from service.runtime.machine import usable_cores
from service.runtime.model_folder import MODEL_FILES
from service.runtime.providers import Session, open_session

SIZES = (1, 2, 4, 8)


def measure(session: Session, lanes: int, size: int, seconds: float) -> tuple[float, float]:
    """Images/s of all lanes together, and CPU-ms per image, in batches of `size`."""
    images = np.random.default_rng(0).integers(0, 256, (size, 3, 224, 224), dtype=np.uint8)
    done = [0] * lanes
    end = time.perf_counter() + seconds

    def infer(lane: int) -> None:
        while time.perf_counter() < end:
            session.ort.run(["logits"], {INPUT: images})
            done[lane] += size

    cpu, started = time.process_time(), time.perf_counter()
    threads = [threading.Thread(target=infer, args=(lane,)) for lane in range(lanes)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(done) / (time.perf_counter() - started), 1000 * (time.process_time() - cpu) / sum(done)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.lanes", description=__doc__.partition("\n")[0])
    parser.add_argument("--precision", choices=("int8", "fp32"), default="int8", help="(default: int8)")
    parser.add_argument("--rounds", type=int, default=5, help="(default: 5)")
    parser.add_argument("--seconds", type=float, default=2, help="of each measurement (default: 2)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also save the results and the machine here")
    args = parser.parse_args()
    path = published(RESNET50, "int8") / MODEL_FILES[FILES[args.precision]]
    machine, cores = describe(), usable_cores()
    shared = open_session(path, "cpu", args.precision, threads=cores)
    narrow = open_session(path, "cpu", args.precision, threads=cores, lanes=cores)
    ways = {
        "one lane on all cores": (shared, 1),
        f"{cores} lanes in that session": (shared, cores),
        f"{cores} lanes of one thread each": (narrow, cores),
    }
    runs = [(way, size) for way in ways for size in SIZES]
    for way, size in runs:
        measure(*ways[way], size, 0.2)
    found = defaultdict(list)
    for _ in tqdm(range(args.rounds), unit="round"):
        for way, size in runs:
            found[way, size].append(measure(*ways[way], size, args.seconds))
    rows, cells = [], []
    for (way, size), values in found.items():
        rate, cpu_ms = spread([rate for rate, _ in values]), spread([cpu for _, cpu in values])
        rows.append({"way": way, "batch": size, "images_per_second": rate, "cpu_ms": cpu_ms})
        cells.append([way, str(size), with_range(rate), with_range(cpu_ms)])
    print(heading(machine))
    print(f"ResNet-50 in {args.precision}, medians of {args.rounds} rounds (lowest–highest)\n")
    print(markdown_table(["", "batch", "images/s", "CPU-ms per image"], cells))
    if args.json:
        save(args.json, machine=machine, precision=args.precision, rounds=args.rounds, rows=rows)


if __name__ == "__main__":
    main()
