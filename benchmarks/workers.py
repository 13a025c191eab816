"""What workers cost and gain: the service with one worker beside the service with more.

They alternate. A ResNet-50 shows what it costs to pass images between processes. A ResNet-8, which is all but free to
compute, shows how many images HTTP and decoding can take. CPU time is reported by process and thread: it tells what
more cores would do.

    python -m benchmarks.workers [--workers 1 2] [--rounds 5] [--seconds 6] [--json FILE]
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from pathlib import Path

from tqdm import tqdm

from benchmarks import wrk
from benchmarks.machine import describe, heading, save
from benchmarks.models import RESNET8, RESNET50, published
from benchmarks.photo import photo
from benchmarks.processes import proportional_mb, thread_differences, thread_seconds
from benchmarks.serving import model_options, service
from benchmarks.tables import markdown_table, spread, with_range

CONNECTIONS = 32
WARM_UP_S = 2

# Figures, and the decimals to print.
COLUMNS = {"images/s": 1, "p50 ms": 1, "p99 ms": 1, "workers' loops": 2, "engine's loop": 2, "all else": 2, "PSS MB": 0}


def measure(model: Path, workers: int, seconds: int) -> dict[str, float]:
    """One service under load: rates, latencies, memory, and CPU-milliseconds per image.

    `workers' loops` are the main threads of the processes that serve HTTP. `engine's loop` is the main thread of the
    process that computes for them (none with one worker). `all else` is decoding, engine and batching.
    """
    with service(model_options(model) | {"workers": workers}) as running:
        wrk.run(running.url, photo(), connections=CONNECTIONS, seconds=WARM_UP_S)
        pids = running.pids()
        before = [thread_seconds(pid) for pid in pids]
        load = wrk.run(running.url, photo(), connections=CONNECTIONS, seconds=seconds)
        after = [thread_seconds(pid) for pid in pids]
        memory = proportional_mb(pids)
    cpu_ms = 1000 / (load.images_per_second * seconds)  # per image, of a CPU-second
    loops, others = {}, 0.0
    for pid, earlier, later in zip(pids, before, after, strict=True):
        by_thread = thread_differences(earlier, later)
        loops[pid] = cpu_ms * by_thread.pop(pid)  # the main thread has the id of its process
        others += cpu_ms * sum(by_thread.values())
    engine_loop = loops.pop(running.pid) if len(pids) > 1 else 0.0
    figures = (load.images_per_second, load.p50, load.p99, sum(loops.values()), engine_loop, others, memory)
    return dict(zip(COLUMNS, figures, strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.workers", description=__doc__.partition("\n")[0])
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2], help="numbers to compare (default: 1 2)")
    parser.add_argument("--rounds", type=int, default=5, help="(default: 5)")
    parser.add_argument("--seconds", type=int, default=6, help="of each load (default: 6)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also save the results and the machine here")
    args = parser.parse_args()
    machine = describe()
    models = {path.parent.name: path for path in (published(RESNET50, "int8"), published(RESNET8))}
    settings = [(model, workers) for model in models for workers in args.workers]
    found: dict[tuple[str, int], list[dict[str, float]]] = defaultdict(list)
    for _ in tqdm(range(args.rounds), unit="round"):
        for model, workers in settings:
            found[model, workers].append(measure(models[model], workers, args.seconds))
    print(heading(machine))
    print(f"medians of {args.rounds} rounds (lowest–highest), {CONNECTIONS} connections")
    print("loops and all else: CPU-ms per image\n")
    cells = [
        [model, str(workers)]
        + [with_range(spread([figures[name] for figures in rounds]), digits) for name, digits in COLUMNS.items()]
        for (model, workers), rounds in found.items()
    ]
    print(markdown_table(["model", "workers", *COLUMNS], cells))
    if args.json:
        rows = [{"model": model, "workers": workers, "rounds": rounds} for (model, workers), rounds in found.items()]
        save(args.json, machine=machine, connections=CONNECTIONS, rows=rows)


if __name__ == "__main__":
    main()
