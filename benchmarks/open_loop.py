"""Open-loop load: requests are sent at random times, whether or not earlier ones have been answered.

A closed loop (wrk) sends the next request when an answer has come. A server that stalls then stops its own load, which
hides the delay. Here arrivals form a Poisson process, fixed by rate and seed before the run. Latency counts from the
moment a request was *due*: waiting for a free connection is part of it. The event loop's timers have a resolution of a
millisecond, which latencies include.

    python -m benchmarks.open_loop URL --body FILE --rate 20 --seconds 10 [--content-type image/jpeg] [--seed 0]
"""

from __future__ import annotations

import argparse
import asyncio
import heapq
import json
import random
import subprocess
import sys
import tempfile
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import httptools

from benchmarks.wrk import NO_HEADERS

MAX_CONNECTIONS = 512  # then requests wait for a connection, and that counts as latency
MAX_IDLE_S = 4.0  # connections idle for longer are not reused: servers close them, uvicorn after 5 s
DRAIN_S = 30.0  # time for answers after the last arrival


class OpenLoad(NamedTuple):
    """What one run measured: rates per second, latencies in milliseconds."""

    offered: float  # arrivals per second in this schedule; by chance not quite the requested rate
    completed: int
    failed: int  # answers other than 2xx, broken connections, requests not answered in time
    p50: float
    p95: float
    p99: float


def schedule(rate: float, seconds: float, seed: int) -> list[float]:
    """Arrival times of a Poisson process, in seconds from the start of a run."""
    chance = random.Random(seed)
    moments = []
    moment = chance.expovariate(rate)
    while moment < seconds:
        moments.append(moment)
        moment += chance.expovariate(rate)
    return moments


def ideal_latencies(moments: Sequence[float], *, servers: int, service_s: float) -> list[float]:
    """Latencies in an ideal queue, in seconds: what remains is due to chance in the arrivals alone.

    M/D/c: first come, first served, by `servers` that each take `service_s` for every request.
    """
    free = [0.0] * servers
    latencies = []
    for moment in moments:
        ended = max(moment, heapq.heappop(free)) + service_s
        heapq.heappush(free, ended)
        latencies.append(ended - moment)
    return latencies


def percentile(ascending: Sequence[float], percent: float) -> float:
    """The nearest-rank percentile: the smallest value that at least `percent` % are no larger than; NaN of none."""
    if not ascending:
        return float("nan")
    return ascending[max(0, -int(-len(ascending) * percent // 100) - 1)]


def post(
    url: str, body: bytes, content_type: str, headers: Mapping[str, str] = NO_HEADERS
) -> tuple[tuple[str, int], bytes]:
    """The address of a POST request (host, port), and its bytes, with these further headers."""
    parts = urlsplit(url)
    assert parts.hostname is not None
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    fields = {"host": parts.netloc, "content-type": content_type, "content-length": len(body), **headers}
    lines = [f"POST {target} HTTP/1.1", *(f"{name}: {value}" for name, value in fields.items())]
    return (parts.hostname, parts.port or 80), ("\r\n".join(lines) + "\r\n\r\n").encode() + body


class Answer(NamedTuple):
    """What became of one request."""

    due: float  # on the event loop's clock
    latency: float  # seconds from then until the end of the response, or of the connection
    status: int  # 0 without a response
    headers: Mapping[str, str]  # by name in lower case

    @property
    def ok(self) -> bool:
        return 200 <= self.status < 300


Outcome = asyncio.Future[Answer]


class _Request(NamedTuple):
    due: float
    outcome: Outcome


class _Connection(asyncio.Protocol):
    """A keep-alive connection that carries one request at a time."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._transport: asyncio.Transport | None = None
        self._request: _Request | None = None  # in flight
        self.idle_since = 0.0
        self._parser = httptools.HttpResponseParser(self)
        self._headers: dict[str, str] = {}

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def send(self, request: _Request) -> None:
        assert self._transport is not None
        self._request = request
        self._parser = httptools.HttpResponseParser(self)
        self._headers = {}
        self._transport.write(self._client.request)

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self.abort()

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_message_complete(self) -> None:
        assert self._transport is not None
        self._settle(self._parser.get_status_code())
        if self._parser.should_keep_alive():
            self._client.free(self)
        else:
            self._transport.close()

    def connection_lost(self, error: Exception | None) -> None:
        if self._request is not None:
            self._settle(0)
        self._client.closed(self)

    def abort(self) -> None:
        """Closes at once; a request in flight gets no answer."""
        assert self._transport is not None
        self._transport.abort()

    def _settle(self, status: int) -> None:
        assert self._request is not None
        request, self._request = self._request, None
        _settle(request, status, self._headers)


def _settle(request: _Request, status: int, headers: Mapping[str, str]) -> None:
    latency = asyncio.get_running_loop().time() - request.due
    request.outcome.set_result(Answer(request.due, latency, status, headers))


class Client:
    """Sends one request over and over, on as many connections as it takes."""

    def __init__(
        self,
        url: str,
        body: bytes,
        content_type: str,
        max_connections: int = MAX_CONNECTIONS,
        headers: Mapping[str, str] = NO_HEADERS,
    ) -> None:
        self._address, self.request = post(url, body, content_type, headers)
        self._max_connections = max_connections
        self._waiting: deque[_Request] = deque()  # for a connection
        self._idle: list[_Connection] = []
        self._open: set[_Connection] = set()
        self._opening: set[asyncio.Task[None]] = set()

    def send(self, due: float) -> Outcome:
        """Sends the request, which was due at this time of the event loop's clock."""
        loop = asyncio.get_running_loop()
        request = _Request(due, loop.create_future())
        while self._idle:
            connection = self._idle.pop()  # the last one used, so that surplus connections time out
            if loop.time() - connection.idle_since < MAX_IDLE_S:
                connection.send(request)
                return request.outcome
            connection.abort()
        self._waiting.append(request)
        self._grow()
        return request.outcome

    async def send_all(
        self, moments: Sequence[float], on_answer: Callable[[Outcome], object] | None = None
    ) -> list[Outcome]:
        """Sends a request at every moment, in seconds from now; returns after the last one, not after its answer.

        Args:
            on_answer: called with the outcome of every request.
        """
        loop = asyncio.get_running_loop()
        start = loop.time()
        outcomes = []
        for moment in moments:
            if (pause := start + moment - loop.time()) > 0:
                await asyncio.sleep(pause)
            outcomes.append(self.send(start + moment))
            if on_answer:
                outcomes[-1].add_done_callback(on_answer)
        return outcomes

    def close(self) -> None:
        """Gives up what has not been answered."""
        for task in self._opening:
            task.cancel()
        self._waiting.clear()
        for connection in tuple(self._open):
            connection.abort()

    def _grow(self) -> None:
        """Opens connections for the requests that wait, within the limit."""
        while len(self._opening) < len(self._waiting) and len(self._open) + len(self._opening) < self._max_connections:
            task = asyncio.create_task(self._connect())
            self._opening.add(task)
            task.add_done_callback(self._opening.discard)

    async def _connect(self) -> None:
        try:
            _, connection = await asyncio.get_running_loop().create_connection(
                lambda: _Connection(self), *self._address
            )
        except OSError:
            if self._waiting:  # the request that this connection was opened for
                _settle(self._waiting.popleft(), 0, {})
            return
        self._open.add(connection)
        self.free(connection)

    def free(self, connection: _Connection) -> None:
        """Gives a connection the next request, or keeps it idle."""
        if self._waiting:
            connection.send(self._waiting.popleft())
        else:
            connection.idle_since = asyncio.get_running_loop().time()
            self._idle.append(connection)

    def closed(self, connection: _Connection) -> None:
        self._open.discard(connection)
        if connection in self._idle:
            self._idle.remove(connection)
        self._grow()


async def settled(outcomes: Iterable[asyncio.Future[Answer]], seconds: float) -> list[Answer]:
    """The answers that come within this time. Those of broken connections have status 0."""
    waiting = set(outcomes)
    if waiting:
        await asyncio.wait(waiting, timeout=seconds)
    return [outcome.result() for outcome in waiting if outcome.done()]


async def drive(
    url: str,
    body: bytes,
    *,
    rate: float,
    seconds: float,
    content_type: str = "image/jpeg",
    seed: int = 0,
    max_connections: int = MAX_CONNECTIONS,
    drain: float = DRAIN_S,
    headers: Mapping[str, str] = NO_HEADERS,
) -> OpenLoad:
    """POSTs `body` from this process, at `rate` requests per second on average, with these further headers."""
    moments = schedule(rate, seconds, seed)
    client = Client(url, body, content_type, max_connections, headers)
    answers = await settled(await client.send_all(moments), drain)
    client.close()
    milliseconds = sorted(1000 * answer.latency for answer in answers if answer.ok)
    p50, p95, p99 = (percentile(milliseconds, percent) for percent in (50, 95, 99))
    completed = len(milliseconds)
    return OpenLoad(len(moments) / seconds, completed, len(moments) - completed, p50, p95, p99)


def run(
    url: str,
    body: bytes,
    *,
    rate: float,
    seconds: float,
    content_type: str,
    seed: int,
    headers: Mapping[str, str] = NO_HEADERS,
) -> OpenLoad:
    """As `drive`, in a process of its own: its event loop shares an interpreter with no other code."""
    with tempfile.NamedTemporaryFile() as file:
        file.write(body)
        file.flush()
        options = {"body": file.name, "rate": rate, "seconds": seconds, "content-type": content_type, "seed": seed}
        arguments = [f"--{name}={value}" for name, value in options.items()]
        arguments += [f"--header={name}:{value}" for name, value in headers.items()]
        command = [sys.executable, "-m", "benchmarks.open_loop", url, *arguments]
        output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return OpenLoad(**json.loads(output))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.open_loop", description=__doc__.partition("\n")[0])
    parser.add_argument("url", help="what to load, such as http://127.0.0.1:8000/classify")
    parser.add_argument("--body", type=Path, metavar="FILE", required=True, help="the file to POST")
    parser.add_argument("--rate", type=float, required=True, help="requests per second, on average")
    parser.add_argument("--seconds", type=float, required=True, help="how long requests are sent")
    parser.add_argument("--content-type", default="image/jpeg", help="of --body (default: %(default)s)")
    parser.add_argument("--header", action="append", default=[], metavar="NAME:VALUE", help="a further one, repeatable")
    parser.add_argument("--seed", type=int, default=0, help="of the random arrival times (default: 0)")
    args = parser.parse_args()
    driving = drive(
        args.url,
        args.body.read_bytes(),
        rate=args.rate,
        seconds=args.seconds,
        content_type=args.content_type,
        seed=args.seed,
        headers={name: value.strip() for name, _, value in (header.partition(":") for header in args.header)},
    )
    print(json.dumps(asyncio.run(driving)._asdict()))


if __name__ == "__main__":
    main()
