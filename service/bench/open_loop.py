"""Open-loop load: requests are sent at random times, whether or not earlier ones have been answered.

A closed loop (wrk) sends the next request when an answer has come. A server that stalls then stops its own load, which
hides the delay. Here arrivals form a Poisson process, fixed by rate and seed before the run. Latency counts from the
moment a request was *due*: waiting for a free connection is part of it. The event loop's timers have a resolution of a
millisecond, which latencies include.
"""

from __future__ import annotations

import asyncio
import itertools
import random
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import httptools

from service.bench.requests import NO_HEADERS, PROBLEM_BYTES, Upload, post, refusal, tls

MAX_CONNECTIONS = 512  # then requests wait for a connection, and that counts as latency
MAX_IDLE_S = 4.0  # connections idle for longer are not reused: servers close them, uvicorn after 5 s
DRAIN_S = 30.0  # time for answers after the last arrival


def schedule(rate: float, seconds: float, seed: int) -> list[float]:
    """Arrival times of a Poisson process, in seconds from the start of a run."""
    chance = random.Random(seed)
    moments = []
    moment = chance.expovariate(rate)
    while moment < seconds:
        moments.append(moment)
        moment += chance.expovariate(rate)
    return moments


class Answer(NamedTuple):
    """What became of one request."""

    due: float  # on the event loop's clock
    latency: float  # seconds from then until the end of the response, or of the connection
    status: int  # 0 without a response
    headers: Mapping[str, str]  # by name in lower case
    refusal: str = ""  # names any other answer than 2xx

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
        self._body = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def send(self, request: _Request) -> None:
        assert self._transport is not None
        self._request = request
        self._parser = httptools.HttpResponseParser(self)
        self._headers, self._body = {}, b""
        self._transport.write(next(self._client.requests))

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self.abort()

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_body(self, body: bytes) -> None:
        if self._parser.get_status_code() >= 300 and len(self._body) < PROBLEM_BYTES:
            self._body += body

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
        _settle(request, status, self._headers, self._body)


def _settle(request: _Request, status: int, headers: Mapping[str, str], body: bytes) -> None:
    latency = asyncio.get_running_loop().time() - request.due
    refused = "" if 200 <= status < 300 else refusal(status, body)
    request.outcome.set_result(Answer(request.due, latency, status, headers, refused))


class Client:
    """Sends some requests over and over, in turn, on as many connections as it takes.

    Attributes:
        requests: the bytes of the next ones, endless.
    """

    def __init__(
        self,
        url: str,
        uploads: Sequence[Upload],
        max_connections: int = MAX_CONNECTIONS,
        headers: Mapping[str, str] = NO_HEADERS,
    ) -> None:
        posts = [post(url, upload.body, upload.content_type, headers) for upload in uploads]
        self._address = posts[0][0]
        self._tls = tls(url)
        self.requests = itertools.cycle([request for _, request in posts])
        self._max_connections = max_connections
        self._waiting: deque[_Request] = deque()  # for a connection
        self._idle: list[_Connection] = []
        self._open: set[_Connection] = set()
        self._opening: set[asyncio.Task[None]] = set()

    def send(self, due: float) -> Outcome:
        """Sends the next request, which was due at this time of the event loop's clock."""
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
                lambda: _Connection(self), *self._address, ssl=self._tls
            )
        except OSError:
            if self._waiting:  # the request that this connection was opened for
                _settle(self._waiting.popleft(), 0, {}, b"")
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
