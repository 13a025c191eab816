"""Stage 4: images/s over HTTP by workers and connections, beside what the host's cores can decode."""

from __future__ import annotations

import multiprocessing
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.pool import Pool

from benchmarks.closed_loop import closed_loop
from benchmarks.gpu.plan import Plan, Report, model_folder, per_second
from benchmarks.processes import cpu_seconds, proportional_mb
from benchmarks.serving import model_options, service
from service.runtime.images.decoding import decode
from service.runtime.machine import usable_cores
from service.runtime.model_card import Preprocessing
from service.runtime.model_folder import read_card

STARTUP_S = 120  # limit for all decoding processes to start


def run(plan: Plan, report: Report) -> None:
    """Measures the service by number of workers and of connections. Times in ms, rates in images/s.

    Raises:
        ProviderUnavailable: the service does not start.
        RuntimeError: a request failed.
    """
    from benchmarks.photo import photo

    jpeg, folder = photo(), model_folder(plan)
    preprocessing = read_card(folder).preprocessing
    workers = (1, 2) if plan.tiny else (8, 1, 4, 12)
    connections = (1, 4) if plan.tiny else (1, 32, 256)
    load_seconds = 1 if plan.tiny else 2
    context = multiprocessing.get_context("spawn")
    ready = context.Barrier(usable_cores() + 1)
    with tempfile.TemporaryDirectory() as cache, context.Pool(usable_cores(), ready.wait, (STARTUP_S,)) as pool:
        ready.wait(STARTUP_S)
        capacity = decode_capacity(pool, jpeg, preprocessing, plan.seconds)
        report.add("decoding", {"cores": usable_cores(), "images/s": capacity})
        for number in workers:
            options = model_options(folder) | {
                "provider": plan.device,
                "precision": plan.precision,
                "workers": number,
                "cache-dir": cache,
            }
            with service(options) as running:
                closed_loop(pool, running.url, jpeg, max(connections), 1)  # warm-up
                for count in connections:
                    pids = running.pids()
                    before = cpu_seconds(pids)
                    with gpu_use(plan) as use:
                        load, load_cpu = closed_loop(pool, running.url, jpeg, count, load_seconds)
                    requests = load.images_per_second * load_seconds
                    # the fraction of the cores that making the load leaves to the service
                    left = 1 - load_cpu / load_seconds / usable_cores()
                    row: dict[str, float | None] = {
                        "workers": number,
                        "connections": count,
                        "ready after, s": running.ready_s,
                        "images/s": load.images_per_second,
                        "p50": load.p50,
                        "p99": load.p99,
                        "of decoding": load.images_per_second / capacity,
                        "of what the load leaves of decoding": load.images_per_second / capacity / left
                        if left > 0
                        else None,
                        "service, CPU-ms": 1000 * (cpu_seconds(pids) - before) / requests,
                        "load, CPU-ms": 1000 * load_cpu / requests,
                        "host MB": proportional_mb(pids),
                    }
                    report.add("HTTP", {**row, **use})


def decode_rate(jpeg: bytes, preprocessing: Preprocessing, seconds: float) -> float:
    """Images/s that one core decodes."""
    return per_second(lambda: decode(jpeg, preprocessing, max_pixels=10**9), seconds)


def decode_capacity(pool: Pool, jpeg: bytes, preprocessing: Preprocessing, seconds: float) -> float:
    """Images/s that all cores decode, with a process for each."""
    return sum(pool.starmap(decode_rate, [(jpeg, preprocessing, seconds)] * usable_cores(), chunksize=1))


@contextmanager
def gpu_use(plan: Plan) -> Iterator[dict[str, float]]:
    """Watches the GPU by nvidia-smi. The dictionary gets its mean utilisation and peak memory at the end."""
    use: dict[str, float] = {}
    if plan.device == "cpu" or not shutil.which("nvidia-smi"):
        yield use
        return
    query = ["--query-gpu=utilization.gpu,memory.used", "--format=csv,noheader,nounits", "--loop-ms=200"]
    process = subprocess.Popen(["nvidia-smi", "--id=0", *query], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    lines: list[str] = []
    reader = threading.Thread(target=lines.extend, args=(process.stdout,))
    reader.start()
    try:
        yield use
    finally:
        process.terminate()
        process.wait()
        reader.join()
        process.stdout.close()
        samples = [tuple(map(float, line.split(","))) for line in lines if line.count(",") == 1]
        if samples:
            use["GPU %"] = sum(sample[0] for sample in samples) / len(samples)
            use["GPU MiB"] = max(sample[1] for sample in samples)
