"""Upgrade offers, half-closed connections and unreadable requests, over a real socket."""

from __future__ import annotations

import asyncio
import itertools
import json
from typing import Any

import pytest
import uvloop

from tests.service.raw_http import everything, parsed, serving
from tests.support.waiting import async_until

OFFER = "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAEAAEAAAAIAAAABAAMAAABk\r\n"


async def exchange(pieces: list[bytes], answers: int) -> list[dict[str, object]]:
    """Sends each piece in a write of its own, then reads this many responses."""
    async with serving() as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0.05)
        found = []
        for _ in range(answers):
            head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 60)
            assert head.startswith(b"HTTP/1.1 200")
            length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
            found.append(json.loads(await reader.readexactly(length)))
        writer.close()
    return found


def request(body: str, offer: str = OFFER, path: str = "/a?b=c") -> bytes:
    return f"POST {path} HTTP/1.1\r\nHost: x\r\n{offer}Content-Length: {len(body)}\r\n\r\n{body}".encode()


BODY = "the whole body" * 100


def pieces_of(data: bytes, *cuts: int) -> list[bytes]:
    marks = [0, *cuts, len(data)]
    return [data[a:b] for a, b in itertools.pairwise(marks)]


HEAD = len(request("")) + 3


@pytest.mark.parametrize("cuts", [(), (HEAD,), (HEAD + 5,), (40,), (40, HEAD, HEAD + 700)])
def test_the_body_after_an_offer_is_read(cuts: tuple[int, ...]) -> None:
    (found,) = asyncio.run(exchange(pieces_of(request(BODY), *cuts), 1))
    assert (found["method"], found["path"], found["body"]) == ("POST", "/a", BODY)
    assert "upgrade" not in found["headers"]  # type: ignore[operator]


def test_a_chunked_body_and_further_requests_on_the_same_connection() -> None:
    chunked = (
        f"POST /one HTTP/1.1\r\nHost: x\r\n{OFFER}Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n".encode()
    )
    found = asyncio.run(exchange([chunked, request(BODY, path="/two"), request("plain", offer="", path="/three")], 3))
    assert [(one["path"], one["body"]) for one in found] == [("/one", "hello"), ("/two", BODY), ("/three", "plain")]


def test_an_offer_of_a_websocket_is_ignored() -> None:
    offer = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: x\r\nSec-WebSocket-Version: 13\r\n"
    (found,) = asyncio.run(exchange([request("", offer)], 1))
    assert found["path"] == "/a"


class Slow:
    """Answers after a delay, unless the client disconnects."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.disconnects = 0

    async def __call__(self, scope, receive, send) -> None:  # type: ignore[no-untyped-def]
        while (await receive()).get("more_body"):
            pass
        going = asyncio.create_task(receive())
        done, _ = await asyncio.wait([going], timeout=self.seconds)
        going.cancel()
        if done:
            self.disconnects += 1
            return
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"ok"})


LOOPS = pytest.mark.parametrize("run", [asyncio.run, uvloop.run])


@LOOPS
@pytest.mark.parametrize("seconds", [0, 0.2])
@pytest.mark.parametrize("count", [1, 3])
def test_a_client_that_half_closes_after_complete_requests_is_answered(run: Any, seconds: float, count: int) -> None:
    slow = Slow(seconds)

    async def ask() -> bytes:
        async with serving(slow) as port:
            return await everything(port, request(BODY, offer="") * count, half_close=True)

    answer = run(ask())
    assert answer.count(b"HTTP/1.1 ") == answer.count(b"HTTP/1.1 200 OK\r\n") == count
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
    assert answer.endswith(b"\r\n\r\nok")
    assert b"connection: close" in answer
    assert slow.disconnects == 0


@LOOPS
@pytest.mark.parametrize("data", [b"", b"GET / HT", request(BODY, offer="")[:-1]])
def test_a_connection_half_closed_within_a_request_ends(run: Any, data: bytes) -> None:
    async def ask() -> bytes:
        async with serving(Slow(0)) as port:
            return await everything(port, data, half_close=True)

    assert run(ask()) == b""


@LOOPS
def test_an_idle_connection_that_is_half_closed_ends(run: Any) -> None:
    async def ask() -> bytes:
        async with serving() as port:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(request("", offer=""))
            await reader.readuntil(b"}")
            writer.write_eof()
            rest = await asyncio.wait_for(reader.read(), 60)
            writer.close()
            return rest

    assert run(ask()) == b""


@LOOPS
def test_a_client_that_closes_the_whole_connection_is_noticed(run: Any) -> None:
    slow = Slow(10)

    async def ask() -> None:
        async with serving(slow) as port:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(request(BODY, offer=""))
            await writer.drain()
            writer.close()
            await writer.wait_closed()
            for _ in range(300):
                if slow.disconnects:
                    break
                await asyncio.sleep(0.01)

    run(ask())
    assert slow.disconnects == 1


def refusal(data: bytes) -> tuple[int, dict[str, str], dict[str, Any]]:
    async def ask() -> bytes:
        async with serving() as port:
            return await everything(port, data)

    return parsed(asyncio.run(ask()))


@pytest.mark.parametrize("rest", [b"", b"what a tunnel would carry"])
def test_connect_is_refused(rest: bytes) -> None:
    status, headers, document = refusal(b"CONNECT example.com:443 HTTP/1.1\r\nHost: example.com:443\r\n\r\n" + rest)
    assert (status, headers["allow"]) == (405, "GET, HEAD, POST")
    assert document["type"] == "/problems/method-not-allowed"
    assert document["detail"] == "example.com:443 does not answer CONNECT."


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        ("GET /\u00e9 HTTP/1.1\r\nHost: x\r\n\r\n", "its URL contains characters that must be percent-encoded"),
        ("GET /?q=\u00e9 HTTP/1.1\r\nHost: x\r\n\r\n", "its URL contains characters that must be percent-encoded"),
        ("GET /a b HTTP/1.1\r\nHost: x\r\n\r\n", "its URL contains a space"),
        ("GET http://x:99999/ HTTP/1.1\r\nHost: x\r\n\r\n", "its URL cannot be read"),
        ("POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: identity\r\n\r\nabc", "does not end in chunked"),
        ("\x16\x03\x01\x02\0\x01", "does not start with a method"),
        ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "this server does not speak HTTP/2"),
        ("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n", "Invalid character in Content-Length"),
    ],
)
def test_unreadable_requests_are_refused_with_the_reason(data: str, reason: str) -> None:
    status, _, document = refusal(data.encode())
    assert (status, document["type"], document["status"]) == (400, "/problems/unreadable-request", 400)
    assert reason in document["reason"]


def test_a_url_that_is_too_long() -> None:
    status, _, document = refusal(b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n")
    assert (status, document["type"]) == (414, "/problems/address-too-long")
    assert (document["bytes"], document["max_bytes"]) == (70_001, 65_535)


def test_a_refusal_reaches_clients_that_are_still_sending() -> None:
    status, _, _ = refusal(request("x" * 10_000_000, offer="Transfer-Encoding: identity\r\n"))
    assert status == 400


class Gated:
    """Answers the first request once the gate opens, and further ones at once."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.begun = asyncio.Event()
        self.paths: list[str] = []
        self.disconnects: list[str] = []

    async def __call__(self, scope, receive, send) -> None:  # type: ignore[no-untyped-def]
        self.paths.append(scope["path"])
        while (message := await receive()).get("more_body"):
            pass
        if message["type"] == "http.disconnect":
            self.disconnects.append(scope["path"])
            return
        self.begun.set()
        leaving = asyncio.create_task(receive())
        opening = asyncio.create_task(self.gate.wait())
        done, _ = await asyncio.wait([leaving, opening], return_when=asyncio.FIRST_COMPLETED)
        leaving.cancel()
        opening.cancel()
        if leaving in done:
            self.disconnects.append(scope["path"])
            return
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"ok"})


@LOOPS
@pytest.mark.parametrize(
    ("behind", "half_close", "statuses"),
    [
        (request("12345", offer="", path="/two")[:-1], True, [200]),
        (request("12345", offer="", path="/two")[:20], True, [200]),
        *(
            (broken, half_close, [200, 400])
            for half_close in (False, True)
            for broken in (
                b"GET /\xff HTTP/1.1\r\n\r\n",
                b"POST /two HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nno size\r\n",
            )
        ),
    ],
)
def test_requests_before_a_broken_one_are_answered_first(
    run: Any, behind: bytes, half_close: bool, statuses: list[int]
) -> None:
    async def ask() -> tuple[bytes, list[str]]:
        app = Gated()
        async with serving(app) as port:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(request("", offer="", path="/one") + behind)
            await app.begun.wait()
            if half_close:
                writer.write_eof()
            app.gate.set()
            answer = await asyncio.wait_for(reader.read(), 60)
            writer.close()
        return answer, app.paths

    answer, paths = run(ask())
    assert paths == ["/one"]
    assert [int(part[:3]) for part in answer.split(b"HTTP/1.1 ")[1:]] == statuses


@LOOPS
def test_a_client_that_leaves_with_requests_queued_is_noticed_by_the_one_that_runs(run: Any) -> None:
    async def ask() -> list[str]:
        app = Gated()
        async with serving(app) as port:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(request("", offer="", path="/one") + request("", offer="", path="/two"))
            await app.begun.wait()
            writer.transport.abort()
            await async_until(lambda: app.disconnects != [])
        return app.disconnects

    assert run(ask()) == ["/one"]


def test_links_in_documents_have_the_prefix_that_clients_see() -> None:
    async def ask() -> bytes:
        async with serving(root_path="/vision") as port:
            return await everything(port, b"no HTTP\r\n\r\n")

    _, _, document = parsed(asyncio.run(ask()))
    assert document["type"] == "/vision/problems/unreadable-request"
