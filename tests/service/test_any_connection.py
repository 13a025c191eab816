"""Whatever bytes arrive on a connection, in whatever pieces: answers or a close, the same for all ways to cut them."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import AsyncExitStack, suppress
from typing import Any

import pytest
import uvloop
from hypothesis import example, given
from hypothesis import strategies as st

from service.refusals import MAX_HEAD_BYTES
from tests.service.raw_http import serving
from tests.support.mutations import CHANGES, CUTS, changed, pieces, tried

GET = b"GET /a?b=c HTTP/1.1\r\nHost: x\r\nAccept: */*\r\n\r\n"
POST = b"POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 11\r\n\r\nhello\r\n\r\nxy"
CHUNKED = (
    b"POST /c HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"5;a=b\r\nhello\r\nB\r\n\r\n0\r\n\r\nGET \r\n0\r\nTrailer: t\r\n\r\n"
)
OFFER = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAEAAEAAAAIAAAABAAMAAABk\r\n"
REQUESTS = {
    "get": GET,
    "post": POST,
    "chunked": CHUNKED,
    "three": POST + CHUNKED + GET,
    "broken second": GET + b"GET /\xff HTTP/1.1\r\n\r\n" + GET,
    "offer": POST.replace(b"Host: x\r\n", b"Host: x\r\n" + OFFER) + GET,
    "chunked offer": CHUNKED.replace(b"Host: x\r\n", OFFER + b"Host: x\r\n") + POST,
    "connect": b"CONNECT x:443 HTTP/1.1\r\nHost: x:443\r\n\r\n" + GET,
    "expect": POST.replace(b"Host: x\r\n", b"Host: x\r\nExpect: 100-continue\r\n"),
    "old": b"GET http://x/a HTTP/1.0\r\nConnection: keep-alive\r\n\r\n" + GET,
    "both lengths": POST.replace(b"Host", b"Transfer-Encoding: chunked\r\nHost"),
    "folded": GET.replace(b"Accept: ", b"Accept:\r\n "),
    "tls": b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03",
}

Send = Callable[[Sequence[bytes]], bytes]


async def describe(scope: Any, receive: Any, send: Any) -> None:
    """Answers with what the application was given."""
    body = b""
    while (message := await receive()).get("more_body") or message.get("body"):
        body += message["body"]
        if not message["more_body"]:
            break
    if message["type"] == "http.disconnect":
        return
    headers = [[name.decode("latin-1"), value.decode("latin-1")] for name, value in scope["headers"]]
    asked = [scope["method"], scope["path"], scope["query_string"].decode("latin-1"), headers]
    answer = json.dumps([*asked, hashlib.sha256(body).hexdigest()]).encode()
    length = [(b"content-length", b"%d" % len(answer))]
    await send({"type": "http.response.start", "status": 200, "headers": length})
    await send({"type": "http.response.body", "body": answer})


async def everything_from(reader: asyncio.StreamReader) -> bytes:
    """What arrives until the server closes, or cuts off a client that goes on sending."""
    received = b""
    with suppress(ConnectionError):
        while more := await reader.read(2**16):
            received += more
    return received


async def exchange(port: int, data: Sequence[bytes]) -> bytes:
    """Sends each piece on its own, closes the sending side, and returns everything until the server closes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    receiving = asyncio.create_task(everything_from(reader))
    for piece in data:
        writer.write(piece)
        for _ in range(3):  # turns of the event loop, in which the server reads the piece
            await asyncio.sleep(0)
        if receiving.done():
            break
    with suppress(OSError, RuntimeError):  # the server has closed
        writer.write_eof()
    try:
        return await asyncio.wait_for(receiving, 20)
    finally:
        writer.close()


@pytest.fixture(scope="module", params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def send(request: pytest.FixtureRequest) -> Iterator[Send]:
    """Sends pieces to a server. Returns its answers without ids and what depends on when the client closed its side."""
    with asyncio.Runner(loop_factory=request.param) as runner:
        stack = AsyncExitStack()
        port = runner.run(stack.enter_async_context(serving(describe)))

        def sent(data: Sequence[bytes]) -> bytes:
            answers = runner.run(exchange(port, data))
            return re.sub(rb"(?i)connection: close\r\n|HTTP/1.1 100 Continue\r\n\r\n|\b[0-9a-f]{32}\b", b"", answers)

        yield sent
        runner.run(stack.aclose())


def statuses(answers: bytes) -> list[int]:
    return [int(status) for status in re.findall(rb"HTTP/1\.1 (\d{3}) ", answers)]


@tried(300)
@given(name=st.sampled_from(sorted(REQUESTS)), changes=st.one_of(st.just([]), CHANGES), cuts=CUTS)
@example(name="get", changes=[], cuts=range(100))
@example(name="three", changes=[], cuts=range(500))
@example(name="chunked offer", changes=[], cuts=range(500))
@example(name="connect", changes=[], cuts=range(500))
def test_the_answers_are_the_same_however_requests_are_cut(
    send: Send,
    caplog: pytest.LogCaptureFixture,
    name: str,
    changes: list[tuple[str, int, int]],
    cuts: Sequence[int],
) -> None:
    data = changed(REQUESTS[name], changes)
    whole = send([data])
    assert send(pieces(data, cuts)) == whole
    assert all(status == 200 or 400 <= status < 500 for status in statuses(whole)), whole
    assert not [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR or record.exc_info]


@tried(200)
@given(data=st.binary(max_size=200), cuts=CUTS)
def test_any_bytes(send: Send, caplog: pytest.LogCaptureFixture, data: bytes, cuts: list[int]) -> None:
    whole = send([data])
    assert send(pieces(data, cuts)) == whole
    assert set(statuses(whole)) <= {400}
    assert not [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR or record.exc_info]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("get", [200]),
        ("three", [200, 200, 200]),
        ("broken second", [200, 400]),
        ("offer", [200, 200]),
        ("chunked offer", [200, 200]),
        ("connect", [405]),
        ("expect", [200]),
        ("old", [200]),
        ("both lengths", [400]),
        ("folded", [400]),
        ("tls", [400]),
    ],
)
def test_the_requests_as_they_are(send: Send, name: str, expected: list[int]) -> None:
    assert statuses(send([REQUESTS[name]])) == expected


def head_of(size: int) -> bytes:
    """A request whose line and headers have this many bytes as they are counted: without the line's own words."""
    head = b"GET / HTTP/1.1\r\nHost: x\r\nA: \r\n\r\n"
    return head.replace(b"A: ", b"A: " + b"a" * (size - len(head)))


@pytest.mark.parametrize("cuts", [[], [1, 30_000], range(0, 70_000, 700), [65_000], [65_535], [65_536]])
@pytest.mark.parametrize(("size", "status"), [(MAX_HEAD_BYTES, 200), (MAX_HEAD_BYTES + 1000, 431)])
@pytest.mark.parametrize("before", [b"", POST])
def test_a_head_has_the_same_limit_however_it_is_cut(
    send: Send, cuts: Sequence[int], size: int, status: int, before: bytes
) -> None:
    expected = [200, status] if before else [status]
    assert statuses(send(pieces(before + head_of(size), cuts))) == expected


@pytest.mark.parametrize("size", [100, 1000, 1448])
@pytest.mark.parametrize(("chunks", "status"), [(10_000, 200), (20_000, 431)])
def test_the_framing_of_a_body_has_the_same_limit_in_packets_of_any_size(
    send: Send, size: int, chunks: int, status: int
) -> None:
    head = b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    data = head + b"1\r\na\r\n" * chunks + b"0\r\n\r\n"
    assert statuses(send(pieces(data, range(0, len(data), size)))) == [status]
