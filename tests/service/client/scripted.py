"""A real HTTP server that does what a test says, and both clients behind one interface."""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

from service.client import AsyncClient, Client


class Reply(NamedTuple):
    """An answer. With `cut`, the connection breaks before its last byte."""

    status: int = 200
    body: bytes = b"{}"
    headers: dict[str, str] = {}  # noqa: RUF012 (never changed)
    cut: bool = False


@dataclass
class Received:
    path: str
    headers: dict[str, str]
    body: bytes
    port: int
    at: float = field(default_factory=time.monotonic)


CLOSE = "close"  # the connection, without an answer
HANG = "hang"  # until the end of the test

Act = Reply | str
ANSWER = {
    "model": "resnet8-cifar",
    "depth": 8,
    "version": 1,
    "provider": "cpu",
    "precision": "fp32",
    "images": [{"width": 2, "height": 3, "predictions": [{"class_id": 1, "label": "one", "probability": 0.5}]}],
}
CLASSIFIED = Reply(200, json.dumps(ANSWER).encode(), {"Server-Timing": 'decode;dur=1.5, batch;desc="1", total;dur=2'})


def problem(status: int, slug: str, **members: object) -> Reply:
    document = {"type": f"/problems/{slug}", "title": slug, "status": status, "detail": "It is so.", "remedy": "Do it."}
    headers = {"Content-Type": "application/problem+json"}
    if "retry_after" in members:
        headers["Retry-After"] = str(members["retry_after"])
    return Reply(status, json.dumps(document | members).encode(), headers)


class Scripted:
    """Answers requests by a script, one act for each; after its end, as the last one.

    Attributes:
        received: every request.
        connections: how many were accepted, also those whose handshake failed.
        most: how many requests were being decided about at once at most.
    """

    def __init__(
        self, *script: Act, each: Callable[[Received], Act] | None = None, tls: ssl.SSLContext | None = None
    ) -> None:
        self.received: list[Received] = []
        self.connections = 0
        self.most = 0
        self._now = 0
        self._script = script
        self._each = each
        self._lock = threading.Lock()
        self._over = threading.Event()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def do_GET(self) -> None:
                outer._answer(self)

            do_POST = do_GET  # noqa: N815

            def log_message(self, *_: object) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 128
            block_on_close = False

            def get_request(self) -> tuple[socket.socket, Any]:
                connection, address = super().get_request()
                outer.connections += 1
                return (tls.wrap_socket(connection, server_side=True) if tls else connection), address

            def handle_error(self, *_: object) -> None:  # a client that has left
                pass

        self._server = Server(("127.0.0.1", 0), Handler)
        self.url = f"{'https' if tls else 'http'}://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()

    def _answer(self, handler: BaseHTTPRequestHandler) -> None:
        body = handler.rfile.read(int(handler.headers.get("Content-Length", 0)))
        headers = {name.lower(): value for name, value in handler.headers.items()}
        request = Received(handler.path, headers, body, handler.client_address[1])
        with self._lock:
            self._now += 1
            self.most = max(self.most, self._now)
            number = len(self.received)
            self.received.append(request)
        try:
            act = self._each(request) if self._each else self._script[min(number, len(self._script) - 1)]
        finally:
            with self._lock:
                self._now -= 1
        if act == HANG:
            self._over.wait(60)
        if not isinstance(act, Reply):
            handler.close_connection = True
            return
        handler.send_response(act.status)
        for name, value in act.headers.items():
            handler.send_header(name, value)
        handler.send_header("Content-Length", str(len(act.body)))
        handler.end_headers()
        handler.wfile.write(act.body[:-1] if act.cut else act.body)
        handler.close_connection |= act.cut

    def stop(self) -> None:
        self._over.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@contextmanager
def serving(
    *script: Act, each: Callable[[Received], Act] | None = None, tls: ssl.SSLContext | None = None
) -> Iterator[Scripted]:
    server = Scripted(*script, each=each, tls=tls)
    try:
        yield server
    finally:
        server.stop()


class Blocking:
    """`Client`, or `AsyncClient` with a loop for each call; the latter's streams become lists."""

    def __init__(self, kind: type[Client] | type[AsyncClient], url: str, **options: Any) -> None:
        self._kind = kind
        self._url = url
        self._options = options

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            if self._kind is Client:
                with Client(self._url, **self._options) as client:
                    result = getattr(client, name)(*arguments, **options)
                    return list(result) if name == "classify_many" else result

            async def called() -> Any:
                async with AsyncClient(self._url, **self._options) as client:
                    result = getattr(client, name)(*arguments, **options)
                    return [one async for one in result] if name == "classify_many" else await result

            return asyncio.run(called())

        return call
