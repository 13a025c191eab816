"""Images/s over HTTP by processes and connections, beside what the host's cores can decode.

With the processor decoding, and with the GPU. The last table follows the GPU's memory over 100,000 requests.
"""

from __future__ import annotations

import itertools
import multiprocessing
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from multiprocessing.pool import Pool
from pathlib import Path
from typing import NamedTuple

from benchmarks.closed_loop import without_wrk
from benchmarks.gpu.plan import Plan, Report, fault, model_folder, per_second
from benchmarks.processes import cpu_seconds, proportional_mb
from benchmarks.serving import Running, model_options, service
from service.runtime.images.decoding import decode
from service.runtime.machine import usable_cores
from service.runtime.model_folder import read_card
from service.runtime.preprocessing import Preprocessing
from service.runtime.providers import ProviderUnavailable

STARTUP_S = 120  # limit for all decoding processes to start
MIXED_CONNECTIONS = (1, 3, 8, 20, 50, 100, 256)  # in turn, for batches of mixed sizes
REQUESTS = 100_000


class Case(NamedTuple):
    """A way to run the service.

    Attributes:
        replicas: services on the same GPU, which share the load.
        follow: watch the memory over `REQUESTS`.
    """

    replicas: int
    workers: int
    gpu_decoding: bool
    follow: bool = False


CASES = (
    Case(1, 14, gpu_decoding=True, follow=True),
    Case(1, 14, gpu_decoding=False),
    Case(2, 7, gpu_decoding=True),
)


def run(plan: Plan, report: Report) -> None:
    """Measures the service in every case. Times in ms, rates in images/s. The row of a case that fails has its error.

    Raises:
        ProviderUnavailable: the decoding processes do not start.
    """
    from benchmarks.photo import photo

    jpeg, folder = photo(), model_folder(plan)
    preprocessing = read_card(folder).preprocessing
    cases = (Case(1, 1, gpu_decoding=False), Case(2, 2, gpu_decoding=False)) if plan.device == "cpu" else CASES
    context = multiprocessing.get_context("spawn")
    ready = context.Barrier(usable_cores() + 1)
    with tempfile.TemporaryDirectory() as cache, context.Pool(usable_cores(), ready.wait, (STARTUP_S,)) as pool:
        ready.wait(STARTUP_S)
        capacity = decode_capacity(pool, jpeg, preprocessing, plan.seconds)
        report.add("decoding", {"cores": usable_cores(), "images/s": capacity})
        with gpu_use(plan) as before:
            pass
        report.add("GPU before the service", before)
        for case in cases:
            try:
                measure(case, folder, jpeg, capacity, pool, Path(cache), plan, report)
            except (ProviderUnavailable, RuntimeError) as error:
                report.add("HTTP", {**case._asdict(), "error": fault(error)})


def measure(
    case: Case,
    folder: Path,
    jpeg: bytes,
    capacity: float,
    pool: Pool,
    cache: Path,
    plan: Plan,
    report: Report,
) -> None:
    """Measures one case.

    Args:
        folder: of the model.
        capacity: images/s that all cores decode.

    Raises:
        ProviderUnavailable: the service does not start.
        RuntimeError: a request failed.
    """
    connections = (1, 4) if plan.tiny else (1, 32, 256)
    seconds = 1 if plan.tiny else 2
    options = model_options(folder) | {
        "provider": plan.device,
        "precision": plan.precision,
        "workers": case.workers,
        "cache-dir": cache,
        "gpu-decoding": case.gpu_decoding,
    }
    with ExitStack() as stack:
        running = [stack.enter_context(service(options)) for _ in range(case.replicas)]
        urls = [each.url for each in running]
        without_wrk(pool, urls, jpeg, max(connections), 1)  # warm-up
        for count in connections:
            before, engines_before = cpu_seconds(pids_of(running)), cpu_seconds(each.pid for each in running)
            with gpu_use(plan) as use:
                load, load_cpu = without_wrk(pool, urls, jpeg, count, seconds)
            requests = load.images_per_second * seconds
            # the fraction of the cores that making the load leaves to the service
            left = 1 - load_cpu / seconds / usable_cores()
            row: dict[str, object] = {
                "replicas": case.replicas,
                "workers": case.workers,
                "GPU decodes": case.gpu_decoding,
                "connections": count,
                "ready after, s": running[0].ready_s,
                "images/s": load.images_per_second,
                "p50": load.p50,
                "p99": load.p99,
                "of decoding": load.images_per_second / capacity,
                "of what the load leaves of decoding": load.images_per_second / capacity / left if left > 0 else None,
                "service, CPU-ms": 1000 * (cpu_seconds(pids_of(running)) - before) / requests,
                "engine processes, CPU-ms": 1000
                * (cpu_seconds(each.pid for each in running) - engines_before)
                / requests,
                "load, CPU-ms": 1000 * load_cpu / requests,
                "host MB": proportional_mb(pids_of(running)),
            }
            report.add("HTTP", row | use)
        if case.follow:
            follow(urls, jpeg, pool, plan, report)


def follow(urls: list[str], jpeg: bytes, pool: Pool, plan: Plan, report: Report) -> None:
    """The GPU's memory after every tenth of `REQUESTS`, with changing numbers of connections."""
    done, reported = 0.0, 0
    for count in itertools.cycle(MIXED_CONNECTIONS):
        load, _ = without_wrk(pool, urls, jpeg, count, 1)
        done += load.images_per_second
        if done >= REQUESTS / 10 * (reported + 1):
            reported = int(done // (REQUESTS / 10))
            with gpu_use(plan) as use:
                pass
            report.add("memory", {"requests": round(done), **use})
        if done >= REQUESTS:
            return


def pids_of(running: list[Running]) -> list[int]:
    """All processes of the services."""
    return [pid for each in running for pid in each.pids()]


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
    first = threading.Event()

    def read() -> None:
        assert process.stdout is not None
        for line in process.stdout:
            lines.append(line)
            first.set()

    reader = threading.Thread(target=read)
    reader.start()
    try:
        yield use
        first.wait(10)
    finally:
        process.terminate()
        process.wait()
        reader.join()
        process.stdout.close()
        samples = [tuple(map(float, line.split(","))) for line in lines if line.count(",") == 1]
        if samples:
            use["GPU %"] = sum(sample[0] for sample in samples) / len(samples)
            use["GPU MiB"] = max(sample[1] for sample in samples)
