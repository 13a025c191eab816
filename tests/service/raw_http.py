"""Applications behind uvicorn with the service's protocol, and clients that write bytes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import uvicorn
from uvicorn.server import ServerState

from service.connections import Connections
from service.metrics import Metrics
from service.uvicorn_protocol import Protocol
from tests.support.waiting import async_until

App = Callable[..., Coroutine[Any, Any, None]]


class Limits(Connections):
    """Connections with a registry of their own. Lenient unless a test says otherwise."""

    def __init__(self, most: int = 1000, client_timeout: float = 10.0, min_body_rate: int = 16384) -> None:
        self.metrics = Metrics()
        super().__init__(most, client_timeout, min_body_rate, self.metrics)

    def closed(self, reason: str) -> float:
        """How many connections have been closed for this reason."""
        return self.metrics.registry.get_sample_value("resnet_connections_closed_total", {"reason": reason}) or 0

    @property
    def connections(self) -> list[Protocol]:
        return [connection for connection in self._open if isinstance(connection, Protocol)]

    @property
    def open(self) -> float | None:
        return self.metrics.registry.get_sample_value("resnet_connections")


async def echo(scope, receive, send) -> None:  # type: ignore[no-untyped-def]
    """Answers with the request."""
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


@asynccontextmanager
async def serving(app: App = echo, limits: Connections | None = None, root_path: str = "") -> AsyncIterator[int]:
    """Serves an app, without uvicorn's `Server`, which ticks ten times a second; yields the port."""
    # Idle connections stay open for long: what ends sooner has another reason.
    config = uvicorn.Config(app, ws="none", log_config=None, lifespan="off", timeout_keep_alive=600)
    config.load()
    state = ServerState()
    limits = limits or Limits()
    server = await asyncio.get_running_loop().create_server(
        lambda: Protocol(limits, root_path, config=config, server_state=state, app_state={}), "127.0.0.1", 0
    )
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for connection in list(state.connections):
            connection.shutdown()
        await asyncio.gather(*state.tasks)
        for connection in list(state.connections):  # those that linger after a refusal
            connection.transport.abort()
        await async_until(lambda: not state.connections)


async def everything(port: int, data: bytes, *, half_close: bool = False) -> bytes:
    """Sends data and reads until the server closes the connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(data)
    if half_close:
        writer.write_eof()
    try:
        return await asyncio.wait_for(reader.read(), 60)
    finally:
        writer.close()


def parsed(response: bytes) -> tuple[int, dict[str, str], Any]:
    """Status, headers and document of a whole response, and checks that it is a problem document."""
    head, _, body = response.partition(b"\r\n\r\n")
    status, *lines = head.decode().split("\r\n")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
    assert headers["content-type"] == "application/problem+json"
    assert headers["connection"] == "close"
    assert int(headers["content-length"]) == len(body)
    return int(status.split()[1]), headers, json.loads(body)
