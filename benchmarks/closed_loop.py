"""Closed-loop load, with or without wrk: each connection repeats its request once it is answered.

Without wrk, several processes make the load: one alone may be slower than the service.
"""

from __future__ import annotations

import asyncio
import itertools
import resource
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from multiprocessing.pool import Pool
from typing import NamedTuple, cast

import httptools
import uvloop

from benchmarks import wrk
from benchmarks.open_loop import percentile, post
from service.runtime.machine import usable_cores

RECONNECT_S = 0.1  # after a connection broke
LOADERS = 4  # processes that make the load without wrk, at most


class Upload(NamedTuple):
    """A body to send, and the status that its answer should have."""

    body: bytes
    content_type: str = "image/jpeg"
    status: int = 200


class ProcessLoad(NamedTuple):
    """The part of a load that one process made."""

    latencies: list[float]  # of answers with the right status, in seconds
    failed: int  # other answers, and broken connections
    elapsed: float  # seconds
    cpu: float  # seconds that making the load took


class _Client(asyncio.Protocol):
    """A connection that sends the next request as soon as one is answered."""

    def __init__(self, requests: Iterator[tuple[bytes, int]]) -> None:
        """
        Args:
            requests: endless; each with the right status.
        """
        self._requests = requests
        self._status = 0
        self._parser = httptools.HttpResponseParser(self)
        self._sent = 0.0
        self._closing = False
        self.lost = asyncio.Event()
        self.latencies: list[float] = []
        self.failed = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's has its methods but is not a subclass
        self._send()

    def _send(self) -> None:
        self._parser = httptools.HttpResponseParser(self)
        self._sent = time.perf_counter()
        request, self._status = next(self._requests)
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self._transport.abort()

    def on_message_complete(self) -> None:
        if self._parser.get_status_code() == self._status:
            self.latencies.append(time.perf_counter() - self._sent)
        else:
            self.failed += 1
        self._send()

    def connection_lost(self, error: Exception | None) -> None:
        if not self._closing:
            self.failed += 1
        self.lost.set()

    def close(self) -> None:
        self._closing = True
        self._transport.abort()


def drive(url: str, uploads: Sequence[Upload], connections: int, seconds: float) -> ProcessLoad:
    """Makes a closed-loop load from this process. All connections take their next upload from one endless round.
    A connection that breaks is opened again.

    Raises:
        OSError: nothing listens there.
    """
    sent = [(post(url, upload.body, upload.content_type), upload.status) for upload in uploads]
    address = sent[0][0][0]
    requests = itertools.cycle([(request, status) for (_, request), status in sent])

    async def run() -> ProcessLoad:
        loop = asyncio.get_running_loop()
        cpu, start = time.process_time(), time.perf_counter()
        clients: list[_Client] = []

        async def connect() -> _Client:
            _, client = await loop.create_connection(lambda: _Client(requests), *address)
            clients.append(client)
            return client

        async def reconnect(client: _Client) -> None:
            while True:
                await client.lost.wait()
                await asyncio.sleep(RECONNECT_S)
                with suppress(OSError):
                    client = await connect()

        keeping = [asyncio.create_task(reconnect(await connect())) for _ in range(connections)]
        await asyncio.sleep(start + seconds - time.perf_counter())
        elapsed, cpu = time.perf_counter() - start, time.process_time() - cpu
        for task in keeping:
            task.cancel()
        for client in clients:
            client.close()
        latencies = [latency for client in clients for latency in client.latencies]
        return ProcessLoad(latencies, sum(client.failed for client in clients), elapsed, cpu)

    return uvloop.run(run())


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
