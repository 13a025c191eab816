"""Requests that offer an upgrade, over a real socket: read as if they had not."""

from __future__ import annotations

import asyncio
import itertools
import json

import pytest
import uvicorn

from service.protocol import Protocol

OFFER = "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAEAAEAAAAIAAAABAAMAAABk\r\n"


async def echo(scope, receive, send) -> None:  # type: ignore[no-untyped-def]
    """Answers with what arrived."""
    if scope["type"] != "http":
        return
    body = b""
    while True:
        message = await receive()
        body += message.get("body", b"")
        if not message.get("more_body"):
            break
    names = [name.decode() for name, _ in scope["headers"]]
    answer = json.dumps({"method": scope["method"], "path": scope["path"], "headers": names, "body": body.decode()})
    headers = [(b"content-length", str(len(answer)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": answer.encode()})


async def exchange(pieces: list[bytes], answers: int) -> list[dict[str, object]]:
    """Sends pieces, one write each, and reads so many answers."""
    config = uvicorn.Config(echo, http=Protocol, ws="none", port=0, log_config=None, lifespan="off")
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server.serve())
    while not server.started:  # noqa: ASYNC110  uvicorn tells by an attribute
        await asyncio.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for piece in pieces:
        writer.write(piece)
        await writer.drain()
        await asyncio.sleep(0.05)
    found = []
    for _ in range(answers):
        head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)
        assert head.startswith(b"HTTP/1.1 200")
        length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
        found.append(json.loads(await reader.readexactly(length)))
    writer.close()
    server.should_exit = True
    await serving
    return found


def request(body: str, offer: str = OFFER, path: str = "/a?b=c") -> bytes:
    return f"POST {path} HTTP/1.1\r\nHost: x\r\n{offer}Content-Length: {len(body)}\r\n\r\n{body}".encode()


BODY = "the whole body" * 100


def pieces_of(data: bytes, *cuts: int) -> list[bytes]:
    marks = [0, *cuts, len(data)]
    return [data[a:b] for a, b in itertools.pairwise(marks)]


HEAD = len(request("")) + 3


@pytest.mark.parametrize("cuts", [(), (HEAD,), (HEAD + 5,), (40,), (40, HEAD, HEAD + 700)])
def test_the_body_behind_an_offer_is_read(cuts: tuple[int, ...]) -> None:
    (found,) = asyncio.run(exchange(pieces_of(request(BODY), *cuts), 1))
    assert (found["method"], found["path"], found["body"]) == ("POST", "/a", BODY)
    assert "upgrade" not in found["headers"]  # type: ignore[operator]


def test_chunked_bodies_and_what_follows_on_the_same_connection() -> None:
    chunked = (
        f"POST /one HTTP/1.1\r\nHost: x\r\n{OFFER}Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n".encode()
    )
    found = asyncio.run(exchange([chunked, request(BODY, path="/two"), request("plain", offer="", path="/three")], 3))
    assert [(one["path"], one["body"]) for one in found] == [("/one", "hello"), ("/two", BODY), ("/three", "plain")]


def test_a_websocket_that_is_not_there_is_a_plain_request() -> None:
    offer = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: x\r\nSec-WebSocket-Version: 13\r\n"
    (found,) = asyncio.run(exchange([request("", offer)], 1))
    assert found["path"] == "/a"
