"""CPU time of a request by thread of the service, and of its event loop by package, as a plot.

The system counts the CPU time of every thread. py-spy names the threads and samples the event loop's stack.

    python -m benchmarks.profile [--seconds 20] [--plot docs/images/profile.png] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
from collections import Counter, defaultdict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from benchmarks import wrk
from benchmarks.machine import describe, save
from benchmarks.models import RESNET50, published
from benchmarks.photo import photo
from benchmarks.processes import thread_differences, thread_seconds
from benchmarks.serving import model_options, service

PY_SPY = str(Path(sys.executable).with_name("py-spy"))
CONNECTIONS = 32
SAMPLES_PER_SECOND = 200
WARM_UP_S = 3

# The service's threads, by the first letters of their names. All other threads are the execution provider's.
THREADS = {"MainThread": "event loop", "decode": "decoding", "engine-": "batching, softmax, top-k"}
ENGINE = "engine"

# What the event loop runs, by the innermost frame from one of these paths.
PACKAGES = {
    r"/service/": "handler",
    r"prometheus_client/": "metrics",
    r"(fastapi|starlette|pydantic\w*)/": "FastAPI, Starlette",
    r"uvicorn/": "uvicorn, uvloop, sockets",
}
REST = "other"


def thread_names(pid: int) -> dict[int, str]:
    """Names of the Python threads of a process, by the system's id."""
    output = subprocess.run([PY_SPY, "dump", "--json", "--pid", str(pid)], check=True, capture_output=True).stdout
    return {thread["os_thread_id"]: thread["thread_name"] or "" for thread in json.loads(output)}


def kind(name: str | None) -> str:
    """What a thread of this name does; None for threads that Python did not start."""
    for prefix, job in THREADS.items():
        if name is not None and name.startswith(prefix):
            return job
    return ENGINE


def package(stack: list[str]) -> str:
    """The package that a sampled stack, outermost frame first, was in."""
    for frame in reversed(stack):
        for pattern, name in PACKAGES.items():
            if re.search(pattern, frame):
                return name
    return REST


def measure(seconds: int) -> dict[str, Any]:
    """CPU-milliseconds of a request, by thread and by package."""
    model = published(RESNET50, "int8")
    with tempfile.TemporaryDirectory() as folder, service(model_options(model)) as running:
        samples = Path(folder) / "samples"
        wrk.run(running.url, photo(), connections=CONNECTIONS, seconds=WARM_UP_S)
        names = thread_names(running.pid)
        before = thread_seconds(running.pid)
        load = wrk.run(running.url, photo(), connections=CONNECTIONS, seconds=seconds)
        after = thread_seconds(running.pid)
        requests = load.images_per_second * seconds
        spent: dict[str, float] = defaultdict(float)
        for thread, cpu in thread_differences(before, after).items():
            spent[kind(names.get(thread))] += 1000 * cpu / requests
        # Sampling slows the process down, so it gets a load of its own and yields shares only.
        options = ["--duration", str(seconds), "--rate", str(SAMPLES_PER_SECOND), "--format", "raw", "--full-filenames"]
        command = [PY_SPY, "record", "--threads", *options, "--output", str(samples), "--pid", str(running.pid)]
        with ThreadPoolExecutor(1) as pool:
            sampling = pool.submit(subprocess.run, command, check=True, capture_output=True)
            wrk.run(running.url, photo(), connections=CONNECTIONS, seconds=seconds + 1)
            sampling.result()
        shares: Counter[str] = Counter()
        for line in samples.read_text().splitlines():
            stack, _, count = line.rpartition(" ")
            thread_frame, *frames = stack.split(";")
            if "MainThread" in thread_frame:
                shares[package(frames)] += int(count)
        entry = running.model()
    loop = spent.pop("event loop")
    return {
        "provider": entry["provider"],
        "precision": entry["precision"],
        "images_per_second": load.images_per_second,
        "cpu_ms": dict(spent),
        "event_loop_ms": {name: loop * count / shares.total() for name, count in shares.items()},
    }


def plot(found: dict[str, Any], path: Path) -> None:
    """A PNG: one bar for the whole request, and below it one for all but decoding and engine."""
    http = found["event_loop_ms"]
    whole = {**found["cpu_ms"], "event loop": sum(http.values())}
    batching = THREADS["engine-"]
    detail = {**dict(sorted(http.items(), key=lambda item: -item[1])), batching: whole[batching]}
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    for axes, parts, title in zip(
        figure.subplots(2, 1),
        (whole, detail),
        ("CPU-milliseconds of one request", "of these, all but decoding and engine"),
        strict=True,
    ):
        left = 0.0
        for name, milliseconds in parts.items():
            axes.barh(0, milliseconds, left=left, label=f"{name} {milliseconds:.2f}", edgecolor="white")
            left += milliseconds
        axes.set_yticks([])
        axes.set_title(title, loc="left", fontsize=10)
        axes.legend(ncols=4, fontsize=8, loc="upper left", bbox_to_anchor=(0, -0.18), frameon=False)
        axes.spines[["top", "right", "left"]].set_visible(False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.profile", description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=int, default=20, help="of each of two loads (default: 20)")
    parser.add_argument(
        "--plot", type=Path, metavar="FILE", default=Path("docs/images/profile.png"), help="(default: %(default)s)"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="also save the results and the machine here")
    args = parser.parse_args()
    found = measure(args.seconds)
    print(json.dumps(found, indent=1))
    plot(found, args.plot)
    if args.json:
        save(args.json, machine=describe(), **found)


if __name__ == "__main__":
    main()
