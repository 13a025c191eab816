"""Closed-loop load: connections that send the request again as soon as it is answered.

By wrk where it is installed; else from several processes of our own, which can ask more of a service than one could.
"""

from __future__ import annotations

import asyncio
import resource
import shutil
import tempfile
import time
from multiprocessing.pool import Pool
from pathlib import Path
from typing import NamedTuple, cast

import httptools
import uvloop

from benchmarks import wrk
from benchmarks.open_loop import percentile, post
from service.providers import usable_cores

LOADERS = 4  # processes of the load where wrk is not installed


class Driven(NamedTuple):
    """What one process of the load saw."""

    latencies: list[float]  # of good answers, in seconds
    failed: int  # other answers than 200, and broken connections
    elapsed: float  # seconds
    cpu: float  # seconds that the load itself took


class _Client(asyncio.Protocol):
    """A connection that sends the request again as soon as it is answered."""

    def __init__(self, request: bytes) -> None:
        self._request = request
        self._parser = httptools.HttpResponseParser(self)
        self._sent = 0.0
        self._closing = False
        self.latencies: list[float] = []
        self.failed = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is one in all but name
        self._send()

    def _send(self) -> None:
        self._parser = httptools.HttpResponseParser(self)
        self._sent = time.perf_counter()
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self._transport.abort()

    def on_message_complete(self) -> None:
        if self._parser.get_status_code() == 200:
            self.latencies.append(time.perf_counter() - self._sent)
        else:
            self.failed += 1
        self._send()

    def connection_lost(self, error: Exception | None) -> None:
        if not self._closing:
            self.failed += 1

    def close(self) -> None:
        self._closing = True
        self._transport.abort()


def drive(url: str, jpeg: bytes, connections: int, seconds: float) -> Driven:
    """Closed-loop load from this process, as wrk makes it. Raises OSError where nobody listens."""
    address, request = post(url, jpeg, "image/jpeg")

    async def run() -> Driven:
        loop = asyncio.get_running_loop()
        cpu, start = time.process_time(), time.perf_counter()
        clients = []
        for _ in range(connections):
            _, client = await loop.create_connection(lambda: _Client(request), *address)
            clients.append(client)
        await asyncio.sleep(start + seconds - time.perf_counter())
        elapsed, cpu = time.perf_counter() - start, time.process_time() - cpu
        for client in clients:
            client.close()
        latencies = [latency for client in clients for latency in client.latencies]
        return Driven(latencies, sum(client.failed for client in clients), elapsed, cpu)

    return uvloop.run(run())


def without_wrk(pool: Pool, url: str, jpeg: bytes, connections: int, seconds: float) -> tuple[wrk.Load, float]:
    """Closed-loop load from several processes, and the CPU-seconds that it took. Raises RuntimeError: one failed."""
    loaders = min(LOADERS, usable_cores(), connections)
    shares = [len(range(i, connections, loaders)) for i in range(loaders)]
    driven = pool.starmap(drive, [(url, jpeg, share, seconds) for share in shares], chunksize=1)
    failed = sum(one.failed for one in driven)
    milliseconds = sorted(1000 * latency for one in driven for latency in one.latencies)
    if failed or not milliseconds:
        raise RuntimeError(f"{failed} requests failed, {len(milliseconds)} did not")
    rate = sum(len(one.latencies) / one.elapsed for one in driven)
    p50, p95, p99 = (percentile(milliseconds, percent) for percent in (50, 95, 99))
    return wrk.Load(rate, p50, p95, p99), sum(one.cpu for one in driven)


def closed_loop(pool: Pool, url: str, jpeg: bytes, connections: int, seconds: int) -> tuple[wrk.Load, float]:
    """By wrk where it is installed; the load, and the CPU-seconds that it took. Raises RuntimeError: one failed."""
    if not shutil.which("wrk"):
        return without_wrk(pool, url, jpeg, connections, seconds)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    with tempfile.TemporaryDirectory() as folder:
        load = wrk.run(url, jpeg, connections=connections, seconds=seconds, folder=Path(folder))
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return load, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
