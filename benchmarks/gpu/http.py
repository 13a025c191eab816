"""Stage 4, the service over HTTP: by workers and connections, beside what the host's cores can decode."""

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
from benchmarks.serving import children, cpu_seconds, proportional_mb, service
from service.card import ModelCard, Preprocessing
from service.imaging import decode
from service.providers import usable_cores

STARTUP_S = 120  # until all processes have imported what they need


def run(plan: Plan, report: Report) -> None:
    """The service with more and more workers, under more and more connections. Times in ms, rates in images/s.

    Raises:
        ProviderUnavailable: the service does not start.
        RuntimeError: a request failed.
    """
    from benchmarks.photo import photo

    jpeg, folder = photo(), model_folder(plan)
    preprocessing = ModelCard.read(folder).preprocessing
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
            options = {
                "models-dir": folder.parent.parent,
                "models": folder.parent.name,
                "provider": plan.device,
                "precision": plan.precision,
                "workers": number,
                "max-queue": max(256, *connections),
                "cache-dir": cache,
            }
            with service(options) as running:
                closed_loop(pool, running.url, jpeg, max(connections), 1)  # warm
                for count in connections:
                    pids = [running.pid, *children(running.pid)]
                    before = sum(map(cpu_seconds, pids))
                    with gpu_use(plan) as use:
                        load, load_cpu = closed_loop(pool, running.url, jpeg, count, load_seconds)
                    requests = load.images_per_second * load_seconds
                    left = 1 - load_cpu / load_seconds / usable_cores()  # of the cores, beside the load
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
                        "service, CPU-ms": 1000 * (sum(map(cpu_seconds, pids)) - before) / requests,
                        "load, CPU-ms": 1000 * load_cpu / requests,
                        "host MB": proportional_mb(pids),
                    }
                    report.add("HTTP", {**row, **use})


def decode_rate(jpeg: bytes, preprocessing: Preprocessing, seconds: float) -> float:
    """Images/s that one core decodes."""
    return per_second(lambda: decode(jpeg, preprocessing, max_pixels=10**9), seconds)


def decode_capacity(pool: Pool, jpeg: bytes, preprocessing: Preprocessing, seconds: float) -> float:
    """Images/s that all cores decode, with a process on each."""
    return sum(pool.starmap(decode_rate, [(jpeg, preprocessing, seconds)] * usable_cores(), chunksize=1))


@contextmanager
def gpu_use(plan: Plan) -> Iterator[dict[str, float]]:
    """Filled at the end: the GPU's mean utilisation and the most memory in use, by nvidia-smi."""
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
