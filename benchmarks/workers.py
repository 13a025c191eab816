"""What workers cost and gain: a service in one process beside the same with workers, alternating.

A ResNet-50 shows what handing images from process to process costs; a ResNet-8, which computes next to nothing, how
much HTTP and decoding get through. CPU time is told apart by process and thread: it says what more cores would do.

    python -m benchmarks.workers [--workers 1 2] [--rounds 5] [--seconds 6] [--json FILE]
"""

from __future__ import annotations

import argparse
import tempfile
from collections import defaultdict
from pathlib import Path
from statistics import median

from tqdm import tqdm

from benchmarks import wrk
from benchmarks.machine import describe, save
from benchmarks.models import NAME, TINY, resnet50, tiny
from benchmarks.photo import photo
from benchmarks.serving import children, proportional_mb, service, thread_seconds

CONNECTIONS = 32
WARM_UP_S = 2

# What is reported, and how many digits of it.
COLUMNS = {"images/s": 1, "p50 ms": 1, "p99 ms": 1, "workers' loops": 2, "engine's loop": 2, "all else": 2, "PSS MB": 0}


def measure(root: Path, model: str, workers: int, seconds: int) -> dict[str, float]:
    """One service under load: rates, latencies, memory, and CPU-milliseconds per image.

    `workers' loops` are the main threads of the processes that talk HTTP, `engine's loop` that of the process that
    computes for them (none with one worker), `all else` decoding, engine and batching.
    """
    options = {"models-dir": root, "models": model, "workers": workers}
    with tempfile.TemporaryDirectory() as folder, service(options) as running:
        wrk.run(running.url, photo(), connections=CONNECTIONS, seconds=WARM_UP_S, folder=Path(folder))
        helpers = children(running.pid)
        processes = [running.pid, *helpers]
        before = [thread_seconds(pid) for pid in processes]
        load = wrk.run(running.url, photo(), connections=CONNECTIONS, seconds=seconds, folder=Path(folder))
        after = [thread_seconds(pid) for pid in processes]
        memory = proportional_mb(processes)
    images = load.images_per_second * seconds
    loops, others = {}, 0.0
    for pid, earlier, later in zip(processes, before, after, strict=True):
        spent = {thread: 1000 * (total - earlier.get(thread, 0.0)) / images for thread, total in later.items()}
        loops[pid] = spent.pop(pid)  # the main thread has the number of its process
        others += sum(spent.values())
    engine_loop = loops.pop(running.pid) if helpers else 0.0
    figures = (load.images_per_second, load.p50, load.p99, sum(loops.values()), engine_loop, others, memory)
    return dict(zip(COLUMNS, figures, strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.workers", description=__doc__.partition("\n")[0])
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=6, help="of each load")
    parser.add_argument("--json", type=Path, help="also write the results and the machine here")
    args = parser.parse_args()
    models = {NAME: resnet50(), TINY: tiny()}
    settings = [(model, workers) for model in models for workers in args.workers]
    found: dict[tuple[str, int], list[dict[str, float]]] = defaultdict(list)
    for _ in tqdm(range(args.rounds), unit="round"):
        for model, workers in settings:
            found[model, workers].append(measure(models[model], model, workers, args.seconds))
    print("\n".join(f"{name}: {value}" for name, value in describe().items()))
    print(
        f"medians of {args.rounds} rounds (lowest-highest), {CONNECTIONS} connections; loops and all else: CPU-ms/image"
    )
    print("\n| model | workers | " + " | ".join(COLUMNS) + " |\n|" + "---|" * (len(COLUMNS) + 2))
    for (model, workers), rounds in found.items():
        cells = []
        for column, digits in COLUMNS.items():
            values = [one[column] for one in rounds]
            cells.append(f"{median(values):.{digits}f} ({min(values):.{digits}f}-{max(values):.{digits}f})")
        print(f"| {model} | {workers} | {' | '.join(cells)} |")
    if args.json:
        rows = [{"model": model, "workers": workers, "rounds": rounds} for (model, workers), rounds in found.items()]
        save(args.json, machine=describe(), connections=CONNECTIONS, rows=rows)


if __name__ == "__main__":
    main()
