"""Closed-loop load: each connection sends the next request once it is answered."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from types import MappingProxyType
from typing import NamedTuple, cast

import httptools
import uvloop

from service.bench.requests import NO_ANSWER, NO_HEADERS, PROBLEM_BYTES, Upload, post, refusal, tls

RECONNECT_S = 0.1  # after a connection broke


class ProcessLoad(NamedTuple):
    """The part of a load that one process made."""

    latencies: list[float]  # of answers with the right status, in seconds
    failed: int  # other answers, and broken connections
    elapsed: float  # seconds
    cpu: float  # seconds that making the load took
    refusals: Mapping[str, int] = MappingProxyType({})  # what failed, by `requests.refusal`


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
        self._body = b""
        self._closing = False
        self.lost = asyncio.Event()
        self.latencies: list[float] = []
        self.refusals: Counter[str] = Counter()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's has its methods but is not a subclass
        self._send()

    def _send(self) -> None:
        self._parser = httptools.HttpResponseParser(self)
        self._body = b""
        self._sent = time.perf_counter()
        request, self._status = next(self._requests)
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self._transport.abort()

    def on_body(self, body: bytes) -> None:
        if self._parser.get_status_code() != self._status and len(self._body) < PROBLEM_BYTES:
            self._body += body

    def on_message_complete(self) -> None:
        status = self._parser.get_status_code()
        if status == self._status:
            self.latencies.append(time.perf_counter() - self._sent)
        else:
            self.refusals[refusal(status, self._body)] += 1
        self._send()

    def connection_lost(self, error: Exception | None) -> None:
        if not self._closing:
            self.refusals[NO_ANSWER] += 1
        self.lost.set()

    def close(self) -> None:
        self._closing = True
        self._transport.abort()


def drive(
    url: str, uploads: Sequence[Upload], connections: int, seconds: float, headers: Mapping[str, str] = NO_HEADERS
) -> ProcessLoad:
    """Makes a closed-loop load from this process. All connections take their next upload from one endless round.
    A connection that breaks is opened again.

    Raises:
        OSError: nothing listens there.
    """
    sent = [(post(url, upload.body, upload.content_type, headers), upload.status) for upload in uploads]
    address, encryption = sent[0][0][0], tls(url)
    requests = itertools.cycle([(request, status) for (_, request), status in sent])

    async def run() -> ProcessLoad:
        loop = asyncio.get_running_loop()
        cpu, start = time.process_time(), time.perf_counter()
        clients: list[_Client] = []

        async def connect() -> _Client:
            _, client = await loop.create_connection(lambda: _Client(requests), *address, ssl=encryption)
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
        refusals: Counter[str] = sum((client.refusals for client in clients), Counter())
        return ProcessLoad(latencies, refusals.total(), elapsed, cpu, refusals)

    return uvloop.run(run())
