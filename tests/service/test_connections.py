"""Deadlines and room for connections, over real sockets."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Any

import pytest
import uvloop

from service import connections
from service.connections import Connections, most_connections
from service.metrics import Metrics
from tests.service.raw_http import Limits, everything, parsed, serving
from tests.support.waiting import async_until

LOOPS = pytest.mark.parametrize("run", [asyncio.run, uvloop.run])
SHORT = 0.3  # seconds of `client_timeout`, in tests in which a client is overdue

GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
POST = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n%b\r\n"


class App:
    """Reads the body, waits for the gate, and answers.

    Attributes:
        events: what happened, in order.
    """

    def __init__(self, answer: bytes = b"ok") -> None:
        self.events: list[str] = []
        self.reading = asyncio.Event()  # the body may be read
        self.gate = asyncio.Event()  # an answer may be given
        self.reading.set()
        self.gate.set()
        self.answer = answer
        self.body = b""

    async def __call__(self, scope, receive, send) -> None:  # type: ignore[no-untyped-def]
        self.events.append("begun")
        await self.reading.wait()
        self.body, more = b"", True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                self.events.append("disconnected")
                return
            self.body += message["body"]
            more = message["more_body"]
        await self.gate.wait()
        headers = [(b"content-length", str(len(self.answer)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        half = len(self.answer) // 2
        await send({"type": "http.response.body", "body": self.answer[:half], "more_body": True})
        await send({"type": "http.response.body", "body": self.answer[half:]})
        self.events.append("answered")


@asynccontextmanager
async def connected(port: int, *pieces: bytes) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A connection on which these pieces have been sent."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(b"".join(pieces))
        yield reader, writer
    finally:
        writer.close()


async def answered(reader: asyncio.StreamReader) -> bytes:
    """One answer of `App`."""
    return await asyncio.wait_for(reader.readuntil(b"\r\n\r\nok"), 60)


async def to_the_end(reader: asyncio.StreamReader) -> bytes:
    return await asyncio.wait_for(reader.read(), 60)


async def until_a_silent_client_is_cut_off(port: int) -> None:
    """Any client that had to act when this was called is overdue afterwards."""
    async with connected(port) as (reader, _):
        assert await to_the_end(reader) == b""


@LOOPS
def test_a_silent_connection_is_closed(run: Any) -> None:
    async def ask() -> None:
        app, limits = App(), Limits(client_timeout=SHORT)
        async with serving(app, limits) as port:
            assert await everything(port, b"") == b""
        assert (limits.closed("header_timeout"), app.events) == (1, [])

    run(ask())


async def trickle(writer: asyncio.StreamWriter, data: bytes) -> None:
    """Sends one byte after the other."""
    with suppress(ConnectionError):
        for position in range(len(data)):
            writer.write(data[position : position + 1])
            await asyncio.sleep(0.02)


@LOOPS
@pytest.mark.parametrize("before", [b"", GET, GET + GET])
@pytest.mark.parametrize("headers", [GET[:-2] + b"X-Long: " + b"x" * 10_000, b"\r\n" * 10_000])
def test_headers_that_trickle_in_are_cut_off(run: Any, before: bytes, headers: bytes) -> None:
    async def ask() -> None:
        app, limits = App(), Limits(client_timeout=SHORT)
        requests = before.count(b"GET")
        async with serving(app, limits) as port, connected(port, before) as (reader, writer):
            for _ in range(requests):
                await answered(reader)
            trickling = asyncio.create_task(trickle(writer, headers))
            status, _, document = parsed(await to_the_end(reader))
            trickling.cancel()
        assert (status, document["type"]) == (408, "/problems/request-timeout")
        assert (limits.closed("header_timeout"), app.events) == (1, ["begun", "answered"] * requests)

    run(ask())


@LOOPS
@pytest.mark.parametrize("sent", [0, 1, 1_000_000])
@pytest.mark.parametrize("trickles", [False, True])
def test_a_body_that_stops_is_cut_off_however_fast_it_was(run: Any, sent: int, trickles: bool) -> None:
    async def ask() -> None:
        app, limits = App(), Limits(client_timeout=SHORT, min_body_rate=1000)
        async with (
            serving(app, limits) as port,
            connected(port, POST % (2_000_000, b""), b"x" * sent) as (reader, writer),
        ):
            trickling = asyncio.create_task(trickle(writer, b"x" * 10_000 if trickles else b""))
            status, _, document = parsed(await to_the_end(reader))
            trickling.cancel()
        assert (status, document["type"]) == (408, "/problems/request-timeout")
        assert (limits.closed("body_too_slow"), app.events) == (1, ["begun", "disconnected"])

    run(ask())


@LOOPS
def test_a_body_that_keeps_to_the_rate_may_take_longer_than_the_timeout(run: Any) -> None:
    async def ask() -> None:
        app, limits = App(), Limits(client_timeout=SHORT, min_body_rate=1)
        async with serving(app, limits) as port, connected(port, POST % (10_000, b"")) as (reader, writer):
            silent = asyncio.create_task(until_a_silent_client_is_cut_off(port))
            sent = 0
            while not silent.done():
                writer.write(b"x")
                sent += 1
                await asyncio.sleep(0.02)
            writer.write(b"x" * (10_000 - sent))
            await answered(reader)
        assert (limits.closed("body_too_slow"), app.events) == (0, ["begun", "answered"])

    run(ask())


@LOOPS
@pytest.mark.parametrize("size", [1, 2_000_000])
@pytest.mark.parametrize("expect", [b"", b"Expect: 100-continue\r\n"])
def test_time_in_which_the_server_does_not_read_costs_the_client_nothing(run: Any, size: int, expect: bytes) -> None:
    async def ask() -> None:
        app, limits = App(), Limits(client_timeout=SHORT)
        app.reading.clear()
        async with serving(app, limits) as port, connected(port, POST % (size, expect)) as (reader, writer):
            if not expect:
                writer.write(b"x" * size)
            await async_until(lambda: app.events == ["begun"])
            await until_a_silent_client_is_cut_off(port)
            app.reading.set()
            if expect:
                await asyncio.wait_for(reader.readuntil(b"HTTP/1.1 100 Continue\r\n\r\n"), 60)
                writer.write(b"x" * size)
            await answered(reader)
        assert (limits.closed("body_too_slow"), len(app.body)) == (0, size)

    run(ask())


@LOOPS
@pytest.mark.parametrize("begin", [b"GET", POST % (5, b"")])
def test_a_request_behind_one_that_runs_is_not_overdue(run: Any, begin: bytes) -> None:
    async def ask() -> None:
        app, limits = App(), Limits(client_timeout=SHORT)
        app.gate.clear()
        async with serving(app, limits) as port, connected(port, GET, begin) as (reader, writer):
            await async_until(lambda: app.events == ["begun"])
            await until_a_silent_client_is_cut_off(port)
            app.gate.set()
            await answered(reader)
            writer.write(GET[3:] if begin == b"GET" else b"12345")
            await answered(reader)
        assert app.events == ["begun", "answered"] * 2

    run(ask())


@LOOPS
def test_a_body_that_nobody_wants_may_not_trickle_for_ever(run: Any) -> None:
    async def refuse(scope, receive, send) -> None:  # type: ignore[no-untyped-def]
        await send({"type": "http.response.start", "status": 413, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body", "body": b""})

    async def ask() -> None:
        limits = Limits(client_timeout=SHORT)
        async with serving(refuse, limits) as port, connected(port, POST % (10_000, b"")) as (reader, writer):
            await reader.readuntil(b"\r\n\r\n")
            trickling = asyncio.create_task(trickle(writer, b"x" * 10_000))
            await async_until(lambda: limits.open == 0)
            trickling.cancel()
        assert limits.closed("body_too_slow") == 1

    run(ask())


@LOOPS
@pytest.mark.parametrize("header", [b"", b"Connection: close\r\n"])
def test_a_client_that_does_not_read_its_answer_is_cut_off(run: Any, header: bytes) -> None:
    async def ask() -> None:
        app, limits = App(answer=b"x" * 2**26), Limits(client_timeout=SHORT)
        async with serving(app, limits) as port:
            _, writer = await asyncio.open_connection("127.0.0.1", port, limit=1)  # it reads no more than this
            writer.write(POST % (0, header))
            await async_until(lambda: limits.closed("answer_unread") == 1)
            await async_until(lambda: limits.open == 0)
            writer.close()
        assert app.events == ["begun", "answered"]

    run(ask())


class Seen:
    """A connection that counts its checks, and fails in them if it has an error."""

    newly_read = 0

    def __init__(self, error: Exception | None = None) -> None:
        self.checks = 0
        self.aborted = False
        self._error = error

    def check(self, passed: float) -> None:
        self.checks += 1
        if self._error:
            raise self._error

    def turn_away(self) -> None: ...

    def abort(self) -> None:
        self.aborted = True


def test_a_connection_whose_check_fails_is_closed_and_the_others_are_checked_on(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def ask() -> None:
        limits = Connections(10, SHORT, 1, Metrics())
        seen = [Seen(), Seen(RuntimeError("odd")), Seen()]
        for connection in seen:
            limits.add(connection)
        await async_until(lambda: min(seen[0].checks, seen[2].checks) >= 3)
        assert [connection.aborted for connection in seen] == [False, True, False]
        assert seen[1].checks == 1
        for connection in seen:
            limits.remove(connection)

    asyncio.run(ask())
    (record,) = caplog.records
    assert record.exc_info
    assert "odd" in str(record.exc_info[1])


def test_time_stands_still_while_the_event_loop_is_held() -> None:
    async def ask() -> tuple[float, int]:
        limits, seen = Connections(1, 0.4, 1, Metrics()), Seen()
        limits.add(seen)
        time.sleep(1)  # noqa: ASYNC251 (holds the loop)
        await async_until(lambda: seen.checks > 0)
        limits.remove(seen)
        return limits.time, seen.checks

    passed, checks = asyncio.run(ask())
    assert passed <= 0.2 * checks


@LOOPS
@pytest.mark.parametrize("checks", [False, True])
def test_at_the_limit_a_new_connection_replaces_the_one_that_has_been_idle_longest(
    run: Any, checks: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "KEPT_S", 0.0)
    monkeypatch.setattr(connections, "LONGEST_INTERVAL_S", 0.05 if checks else 600.0)

    async def ask() -> None:
        app, limits = App(), Limits(most=3, client_timeout=6000)
        async with (
            serving(app, limits) as port,
            connected(port, GET[:9]) as (half, _),
            connected(port) as (used, writer),
            connected(port) as (silent, _),
        ):
            await async_until(lambda: limits.open == 3)
            writer.write(GET)
            await answered(used)
            if checks:
                await until_stalled(limits)
            async with AsyncExitStack() as stack:
                for victim in (half, silent, used):
                    reader, _ = await stack.enter_async_context(connected(port, GET))
                    await answered(reader)
                    assert await to_the_end(victim) == b""
                    assert limits.open == 3
        assert limits.closed("evicted") == 3

    run(ask())


@LOOPS
def test_a_client_between_two_requests_keeps_its_connection(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "KEPT_S", 600.0)

    async def ask() -> None:
        app, limits = App(), Limits(most=1)
        async with serving(app, limits) as port, connected(port, GET) as (reader, writer):
            await answered(reader)
            async with connected(port, GET) as (other, _):
                status, _, _ = parsed(await to_the_end(other))
                assert status == 503
            writer.write(GET)
            await answered(reader)
        assert (limits.closed("refused"), limits.closed("evicted")) == (1, 0)

    run(ask())


async def until_stalled(limits: Connections) -> None:
    """Uploads that have brought nothing since this was called count as stalled afterwards."""
    begun = limits.time
    await async_until(lambda: limits.time > begun + 3 * connections.LONGEST_INTERVAL_S)  # at least two checks


@LOOPS
@pytest.mark.parametrize("sent", [0, 1000])
def test_at_the_limit_a_new_connection_replaces_the_upload_that_has_stalled_longest(
    run: Any, sent: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "LONGEST_INTERVAL_S", 0.1)

    async def ask() -> None:
        app, limits = App(), Limits(most=2, client_timeout=600)
        upload = POST % (20_000_000, b""), b"x" * sent
        async with serving(app, limits) as port, connected(port, *upload) as (first, _):
            await async_until(lambda: app.events == ["begun"])
            await until_stalled(limits)
            async with connected(port, *upload) as (second, _):
                await async_until(lambda: app.events == ["begun"] * 2)
                await until_stalled(limits)
                assert b"200 OK" in await everything(port, GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
                assert await to_the_end(first) == b""
                assert "disconnected" in app.events
                assert (limits.closed("evicted"), limits.closed("refused")) == (1, 0)
                async with AsyncExitStack() as stack:  # the first one takes the free place
                    app.gate.clear()
                    for requests in (4, 5):
                        await stack.enter_async_context(connected(port, GET))
                        await async_until(lambda requests=requests: app.events.count("begun") == requests)  # type: ignore[misc]
                    assert await to_the_end(second) == b""
                    assert (limits.closed("evicted"), limits.closed("refused")) == (2, 0)
                    app.gate.set()

    run(ask())


@LOOPS
def test_at_the_limit_an_upload_that_has_brought_nothing_makes_room_at_once(
    run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "LONGEST_INTERVAL_S", 600.0)  # nothing is checked

    async def ask() -> None:
        app, limits = App(), Limits(most=2, client_timeout=6000)
        announced = POST % (20_000_000, b"")
        async with serving(app, limits) as port, connected(port, announced, b"x") as (begun, _):
            await async_until(lambda: app.events == ["begun"])
            async with connected(port, announced) as (silent, _):
                await async_until(lambda: app.events == ["begun"] * 2)
                assert b"200 OK" in await everything(port, GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
                assert await to_the_end(silent) == b""
                assert (limits.closed("evicted"), limits.closed("refused")) == (1, 0)
                app.gate.clear()
                async with connected(port, GET):  # takes the free place
                    await async_until(lambda: app.events.count("begun") == 4)
                    status, _, _ = parsed(await everything(port, GET))
                    assert (status, limits.closed("evicted"), limits.closed("refused")) == (503, 1, 1)
                    assert not begun.at_eof()
                    app.gate.set()

    run(ask())


@LOOPS
def test_an_upload_that_goes_on_is_not_replaced(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "LONGEST_INTERVAL_S", 0.2)

    async def ask() -> None:
        app, limits = App(), Limits(most=1, client_timeout=600)
        async with serving(app, limits) as port, connected(port, POST % (10_000, b"")) as (reader, writer):
            await async_until(lambda: app.events == ["begun"])
            await until_stalled(limits)
            sent = 0
            going = asyncio.create_task(until_stalled(limits))
            while not going.done():
                writer.write(b"x")
                sent += 1
                await asyncio.sleep(0.02)
            status, _, _ = parsed(await everything(port, GET))
            assert (status, limits.closed("evicted"), limits.closed("refused")) == (503, 0, 1)
            writer.write(b"x" * (10_000 - sent))
            await answered(reader)

    run(ask())


@LOOPS
def test_if_all_are_in_use_a_new_connection_is_turned_away(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "MOST_TURNED_AWAY", 1)
    monkeypatch.setattr(connections, "KEPT_S", 0.0)

    async def ask() -> None:
        app, limits = App(), Limits(most=2)
        app.gate.clear()
        async with (
            serving(app, limits) as port,
            connected(port, GET) as (first, _),
            connected(port, GET) as (second, _),
        ):
            await async_until(lambda: app.events == ["begun"] * 2)
            async with connected(port, GET) as (third, _):
                status, headers, document = parsed(await to_the_end(third))
                assert (status, headers["retry-after"]) == (503, "1")
                assert document["type"] == "/problems/too-many-connections"
                async with connected(port) as (fourth, _):  # while the third lingers
                    with suppress(ConnectionError):
                        assert await to_the_end(fourth) == b""
            assert (limits.closed("refused"), limits.closed("evicted"), limits.open) == (2, 0, 2)
            app.gate.set()
            await answered(first)
            await answered(second)
            async with connected(port, GET) as (fifth, _):
                await answered(fifth)
        assert limits.closed("evicted") == 1

    run(ask())


@pytest.mark.parametrize(
    ("wanted", "open_files", "most"), [(1000, 65536, 1000), (1000, 1024, 924), (1000, 128, 32), (10, 128, 10)]
)
def test_descriptors_limit_connections(wanted: int, open_files: int, most: int) -> None:
    assert most_connections(wanted, open_files) == most
