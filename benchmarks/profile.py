"""Where the CPU time of a request goes: by thread of the service, and for the event loop by package. A picture.

The system counts the CPU time of every thread; py-spy says which thread is which, and samples what the event loop does.

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
from benchmarks.models import NAME, resnet50
from benchmarks.photo import photo
from benchmarks.serving import service, thread_seconds

PY_SPY = str(Path(sys.executable).with_name("py-spy"))
CONNECTIONS = 32
SAMPLES_PER_SECOND = 200

# Threads of the service, by the beginnings of their names; all others are the execution provider's.
THREADS = {"MainThread": "event loop", "decode": "decoding", "engine-": "batching, softmax, top-k"}
ENGINE = "engine"

# What the event loop is busy with, by the innermost frame from one of these paths.
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
    """What a thread of this name does; None is none of Python's."""
    for prefix, what in THREADS.items():
        if name is not None and name.startswith(prefix):
            return what
    return ENGINE


def package(stack: list[str]) -> str:
    """Whose code a sampled stack was in, from the outermost frame to the innermost."""
    for frame in reversed(stack):
        for pattern, name in PACKAGES.items():
            if re.search(pattern, frame):
                return name
    return REST


def measure(seconds: int) -> dict[str, Any]:
    """CPU-milliseconds of a request, by what they went into."""
    with tempfile.TemporaryDirectory() as folder, service({"models-dir": resnet50(), "models": NAME}) as running:
        samples = Path(folder) / "samples"
        wrk.run(running.url, photo(), connections=CONNECTIONS, seconds=3, folder=Path(folder))
        names = thread_names(running.pid)
        before = thread_seconds(running.pid)
        load = wrk.run(running.url, photo(), connections=CONNECTIONS, seconds=seconds, folder=Path(folder))
        after = thread_seconds(running.pid)
        requests = load.images_per_second * seconds
        spent: dict[str, float] = defaultdict(float)
        for thread, total in after.items():
            spent[kind(names.get(thread))] += 1000 * (total - before.get(thread, 0.0)) / requests
        # Sampling slows the process down, so it has a load of its own, and only shares are taken from it.
        options = ["--duration", str(seconds), "--rate", str(SAMPLES_PER_SECOND), "--format", "raw", "--full-filenames"]
        command = [PY_SPY, "record", "--threads", *options, "--output", str(samples), "--pid", str(running.pid)]
        with ThreadPoolExecutor(1) as pool:
            sampling = pool.submit(subprocess.run, command, check=True, capture_output=True)
            wrk.run(running.url, photo(), connections=CONNECTIONS, seconds=seconds + 1, folder=Path(folder))
            sampling.result()
        shares: Counter[str] = Counter()
        for line in samples.read_text().splitlines():
            stack, _, count = line.rpartition(" ")
            thread_frame, *frames = stack.split(";")
            if "MainThread" in thread_frame:
                shares[package(frames)] += int(count)
        model = running.model()
    loop = spent.pop("event loop")
    return {
        "provider": model["provider"],
        "precision": model["precision"],
        "images_per_second": load.images_per_second,
        "cpu_ms": dict(spent),
        "event_loop_ms": {name: loop * count / shares.total() for name, count in shares.items()},
    }


def plot(found: dict[str, Any], path: Path) -> None:
    """One bar for the whole request, and below it one for what is neither decoding nor engine."""
    http = found["event_loop_ms"]
    whole = {**found["cpu_ms"], "event loop": sum(http.values())}
    batching = THREADS["engine-"]
    detail = {**dict(sorted(http.items(), key=lambda item: -item[1])), batching: whole[batching]}
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    for axes, parts, title in zip(
        figure.subplots(2, 1),
        (whole, detail),
        ("CPU-milliseconds of one request", "of these, what is neither decoding nor engine"),
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
    parser.add_argument("--seconds", type=int, default=20, help="of load, twice")
    parser.add_argument("--plot", type=Path, default=Path("docs/images/profile.png"))
    parser.add_argument("--json", type=Path, help="also write the results and the machine here")
    args = parser.parse_args()
    found = measure(args.seconds)
    print(json.dumps(found, indent=1))
    plot(found, args.plot)
    if args.json:
        save(args.json, machine=describe(), **found)


if __name__ == "__main__":
    main()
