"""The closed-loop load of `service.bench` in several processes, or that of wrk.

One process alone may be slower than the service.
"""

from __future__ import annotations

import itertools
import resource
import shutil
from collections.abc import Sequence
from multiprocessing.pool import Pool

from benchmarks import wrk
from service.bench.closed_loop import drive
from service.bench.requests import Upload, percentile
from service.runtime.machine import usable_cores

LOADERS = 4  # processes that make the load without wrk, at most


def without_wrk(
    pool: Pool, urls: Sequence[str], jpeg: bytes, connections: int, seconds: float
) -> tuple[wrk.Load, float]:
    """Makes a closed-loop load from several processes; also returns the CPU-seconds that making it took.

    Args:
        urls: the processes take them in turn.

    Raises:
        RuntimeError: a request failed, or none was answered.
    """
    loaders = min(LOADERS, usable_cores(), connections)
    shares = [len(range(i, connections, loaders)) for i in range(loaders)]
    loads = [(url, [Upload(jpeg)], share, seconds) for url, share in zip(itertools.cycle(urls), shares, strict=False)]
    parts = pool.starmap(drive, loads, chunksize=1)
    failed = sum(part.failed for part in parts)
    milliseconds = sorted(1000 * latency for part in parts for latency in part.latencies)
    if failed or not milliseconds:
        raise RuntimeError(f"{failed} requests failed, {len(milliseconds)} were answered")
    rate = sum(len(part.latencies) / part.elapsed for part in parts)
    p50, p95, p99 = (percentile(milliseconds, percent) for percent in (50, 95, 99))
    return wrk.Load(rate, p50, p95, p99), sum(part.cpu for part in parts)


def closed_loop(pool: Pool, url: str, jpeg: bytes, connections: int, seconds: int) -> tuple[wrk.Load, float]:
    """Makes a load by wrk if it is installed, else by `without_wrk`; also returns the CPU-seconds that making it took.

    Raises:
        RuntimeError: a request failed, or none was answered.
    """
    if not shutil.which("wrk"):
        return without_wrk(pool, [url], jpeg, connections, seconds)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    load = wrk.run(url, jpeg, connections=connections, seconds=seconds)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return load, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
