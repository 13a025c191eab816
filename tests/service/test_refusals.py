"""What is refused before the application sees it: heads and framing that are too large, and Hosts that are none."""

from __future__ import annotations

import asyncio
import itertools
import re
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

import pytest
import uvloop

from service.refusals import MAX_HEAD_BYTES, MOST_PIPELINED
from tests.service.raw_http import Limits, echo, everything, parsed, serving

LOOPS = pytest.mark.parametrize("run", [asyncio.run, uvloop.run])
CHUNKED = b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
PIECE = 50_000
ENOUGH = 200  # pieces: 10 MB


class Counting:
    """`echo`, and how often it was called."""

    def __init__(self) -> None:
        self.calls = 0

    async def __call__(self, scope, receive, send) -> None:  # type: ignore[no-untyped-def]
        self.calls += 1
        await echo(scope, receive, send)


async def stream(app: Counting, limits: Limits, pieces: Iterable[bytes]) -> bytes:
    """Sends pieces until the server answers. Returns the answer."""
    async with serving(app, limits) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        answering = asyncio.create_task(reader.read())
        with suppress(ConnectionError):
            for piece in pieces:
                if answering.done():
                    break
                writer.write(piece)
                await writer.drain()
        try:
            return await asyncio.wait_for(answering, 60)
        finally:
            writer.close()


ENDLESS = {
    "a header": (b"GET / HTTP/1.1\r\nHost: x\r\nX: ", b"x" * PIECE, "request line and headers", 0),
    "headers": (b"GET / HTTP/1.1\r\nHost: x\r\n", b"a: b\r\n" * (PIECE // 6), "request line and headers", 0),
    "blank lines": (b"", b"\r\n" * (PIECE // 2), "request line and headers", 0),
    "a trailer": (CHUNKED + b"0\r\nX: ", b"x" * PIECE, "chunk sizes, chunk extensions and trailers", 1),
    "an extension": (CHUNKED + b"1;", b"x" * PIECE, "chunk sizes, chunk extensions and trailers", 1),
    "tiny chunks": (CHUNKED, b"1\r\nx\r\n" * (PIECE // 6), "chunk sizes, chunk extensions and trailers", 1),
}


@LOOPS
@pytest.mark.parametrize(("begin", "piece", "part", "calls"), ENDLESS.values(), ids=ENDLESS.keys())
def test_what_never_ends_is_refused_early(run: Any, begin: bytes, piece: bytes, part: str, calls: int) -> None:
    app, limits = Counting(), Limits()
    fed = itertools.chain([begin], itertools.repeat(piece, ENOUGH))
    status, _, document = parsed(run(stream(app, limits, fed)))
    assert (status, document["type"]) == (431, "/problems/headers-too-large")
    assert part in document["detail"]
    assert (limits.closed("headers_too_large"), app.calls) == (1, calls)


def test_a_url_that_never_ends() -> None:
    fed = itertools.chain([b"GET /"], itertools.repeat(b"x" * PIECE, ENOUGH))
    status, _, document = parsed(asyncio.run(stream(Counting(), Limits(), fed)))
    assert (status, document["type"]) == (414, "/problems/address-too-long")


@LOOPS
@pytest.mark.parametrize("before", [b"", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"])
def test_a_complete_head_that_is_too_large_is_refused(run: Any, before: bytes) -> None:
    async def ask() -> None:
        app = Counting()
        async with serving(app) as port:
            headers = b"X: %b\r\n" % (b"x" * 998) * (MAX_HEAD_BYTES // 1000)
            answer = await everything(port, before + b"GET / HTTP/1.1\r\nHost: x\r\n" + headers + headers + b"\r\n")
        calls = before.count(b"GET")
        assert (answer.count(b"HTTP/1.1 200"), app.calls) == (calls, calls)
        status, _, _ = parsed(answer[answer.rindex(b"HTTP/1.1 431") :])
        assert status == 431

    run(ask())


@LOOPS
@pytest.mark.parametrize("size", [48, 1000, 100_000])
def test_chunks_of_usual_sizes_pass(run: Any, size: int) -> None:
    count = 4_000_000 // size
    fed = [CHUNKED[:-2] + b"Connection: close\r\n\r\n", b"%x\r\n%b\r\n" % (size, b"x" * size) * count, b"0\r\n\r\n"]
    answer = run(stream(Counting(), Limits(), fed))
    assert answer.startswith(b"HTTP/1.1 200")
    assert answer.count(b"x") == size * count


@LOOPS
@pytest.mark.parametrize("offer", [b"", b"Upgrade: h2c\r\nConnection: Upgrade\r\n"], ids=["plain", "upgrade"])
def test_few_requests_are_read_ahead_of_their_answers(run: Any, offer: bytes) -> None:
    async def ask() -> bytes:
        app = Counting()
        async with serving(app) as port:
            answer = await everything(port, (b"GET / HTTP/1.1\r\nHost: x\r\n" + offer + b"\r\n") * 1000)
        assert MOST_PIPELINED < app.calls < 100
        return answer

    *answers, last = re.split(rb"(?=HTTP/1\.1 )", run(ask()))[1:]
    assert len(answers) > MOST_PIPELINED
    assert {answer[:15] for answer in answers} == {b"HTTP/1.1 200 OK"}
    status, _, document = parsed(last)
    assert (status, document["type"]) == (400, "/problems/unreadable-request")
    assert "more than 16 requests were sent ahead of their answers" in document["detail"]


def test_trailers_are_not_kept() -> None:
    async def ask() -> None:
        limits = Limits()
        async with serving(limits=limits) as port:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(CHUNKED + b"1000\r\n" + b"x" * 4096 + b"\r\n0\r\n" + b"a: b\r\n" * 9000 + b"\r\n")
            await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 60)
            (connection,) = limits.connections
            assert len(connection.headers) == 2
            writer.close()

    asyncio.run(ask())


def test_trailers_are_no_headers() -> None:
    async def ask() -> bytes:
        scopes: list[Any] = []

        async def app(scope, receive, send) -> None:  # type: ignore[no-untyped-def]
            scopes.append(scope)
            await echo(scope, receive, send)

        async with serving(app) as port:
            data = CHUNKED[:-2] + b"Connection: close\r\n\r\n1\r\nx\r\n0\r\nX-Admin: yes\r\n\r\n"
            answer = await everything(port, data)
        assert [name for name, _ in scopes[0]["headers"]] == [b"host", b"transfer-encoding", b"connection"]
        return answer

    assert asyncio.run(ask()).startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize(
    ("hosts", "version", "reason"),
    [
        ([], "1.1", "it has no header Host"),
        (["a", "b"], "1.1", "it has more than one header Host"),
        (["a", "b"], "1.0", "it has more than one header Host"),
        (["a b"], "1.1", "its header Host is not a host"),
        (["["], "1.1", "its header Host is not a host"),
        (["[1:2]"], "1.1", "its header Host is not a host"),
        (["a/b"], "1.1", "its header Host is not a host"),
    ],
)
def test_a_request_names_one_host(hosts: list[str], version: str, reason: str) -> None:
    lines = "".join(f"Host: {host}\r\n" for host in hosts)

    async def ask() -> bytes:
        async with serving() as port:
            return await everything(port, f"GET / HTTP/{version}\r\n{lines}\r\n".encode())

    status, _, document = parsed(asyncio.run(ask()))
    assert (status, document["reason"]) == (400, reason)


@pytest.mark.parametrize(
    "head", ["1.0\r\n", "1.1\r\nHost:\r\n", "1.1\r\nHost: [::1]:80\r\n", "1.1\r\nHost: a_b.example:8000\r\n"]
)
def test_hosts_that_are_fine(head: str) -> None:
    async def ask() -> bytes:
        async with serving() as port:
            return await everything(port, f"GET / HTTP/{head}Connection: close\r\n\r\n".encode())

    assert asyncio.run(ask()).startswith(b"HTTP/1.1 200")
