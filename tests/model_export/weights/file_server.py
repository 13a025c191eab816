"""A real HTTP server on this machine that misbehaves on demand."""

from __future__ import annotations

from collections import deque
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple

CONTENT = bytes(range(256)) * 4000


class Fault(NamedTuple):
    """What goes wrong with one answer of the server."""

    status: int | None = None
    cut_at: int | None = None  # the connection closes after so many bytes of the body
    wrong_range: bool = False


class FileServer(ThreadingHTTPServer):
    """Serves `content` at every path. `requests` lists the path and the Range header of each request."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.content = CONTENT
        self.ranges = True
        self.faults: deque[Fault] = deque()
        self.requests: list[tuple[str, str | None]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    @property
    def requested_ranges(self) -> list[str | None]:
        return [requested for _, requested in self.requests]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: FileServer

    def do_GET(self) -> None:
        requested = self.headers["Range"]
        self.server.requests.append((self.path, requested))
        fault = self.server.faults.popleft() if self.server.faults else Fault()
        content = self.server.content
        start = int(requested.removeprefix("bytes=").removesuffix("-")) if requested and self.server.ranges else 0
        self.close_connection = True
        if fault.status or start >= len(content):
            self.send_error(fault.status or 416)
            return
        if fault.wrong_range:
            start = 0
        self.send_response(206 if requested and self.server.ranges else 200)
        if requested and self.server.ranges:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        self.wfile.write(content[start : fault.cut_at])

    def log_message(self, *_: object) -> None:
        pass
