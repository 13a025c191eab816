"""A receiver of traces: OTLP over HTTP, as a collector has it, that keeps what comes."""

from __future__ import annotations

import gzip
import os
import threading
from collections.abc import Callable, Iterable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple, Self

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.common.v1.common_pb2 import KeyValue
from opentelemetry.proto.trace.v1 import trace_pb2

from tests.support.waiting import until

WITHIN_S = 90


def forget_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever runs the tests may be traced: their sampler, say, must not count."""
    for name in os.environ:
        if name.startswith("OTEL_"):
            monkeypatch.delenv(name)


class Received(NamedTuple):
    """A span. Ids in hexadecimal digits, times in nanoseconds since 1970."""

    name: str
    trace_id: str
    span_id: str
    parent: str  # empty for the first of a trace
    kind: int
    start: int
    end: int
    attributes: dict[str, object]
    links: list[tuple[str, str]]  # trace and span
    failed: bool
    state: str
    resource: dict[str, object]

    @property
    def ids(self) -> tuple[str, str]:
        return self.trace_id, self.span_id


class Receiver:
    """Listens within its context.

    Attributes:
        status: what exports are answered with.
        calls: how many there were.
    """

    def __init__(self, port: int = 0) -> None:
        self.status = 200
        self.calls = 0
        self._spans: list[Received] = []
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                receiver._take(self)

            def log_message(self, *arguments: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self._server.daemon_threads = True
        self.endpoint = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05})

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    @property
    def spans(self) -> list[Received]:
        return list(self._spans)

    def named(self, name: str, trace_id: str = "") -> list[Received]:
        return [span for span in self.spans if span.name == name and trace_id in ("", span.trace_id)]

    def wait_for(self, enough: Callable[[list[Received]], bool]) -> list[Received]:
        """The spans, once they are enough. Raises TimeoutError."""
        until(lambda: enough(self.spans), WITHIN_S)
        return self.spans

    def _take(self, call: BaseHTTPRequestHandler) -> None:
        data = call.rfile.read(int(call.headers["content-length"]))
        if call.headers.get("content-encoding") == "gzip":
            data = gzip.decompress(data)
        assert call.headers["content-type"] == "application/x-protobuf"
        self.calls += 1
        if call.path == "/v1/traces" and self.status == 200:
            self._spans += _spans(ExportTraceServiceRequest.FromString(data))
        answer = ExportTraceServiceResponse().SerializeToString()
        call.send_response(self.status if call.path == "/v1/traces" else 404)
        call.send_header("content-type", "application/x-protobuf")
        call.send_header("content-length", str(len(answer)))
        call.end_headers()
        call.wfile.write(answer)


def _spans(request: ExportTraceServiceRequest) -> list[Received]:
    return [
        Received(
            name=span.name,
            trace_id=span.trace_id.hex(),
            span_id=span.span_id.hex(),
            parent=span.parent_span_id.hex(),
            kind=span.kind,
            start=span.start_time_unix_nano,
            end=span.end_time_unix_nano,
            attributes=_values(span.attributes),
            links=[(link.trace_id.hex(), link.span_id.hex()) for link in span.links],
            failed=span.status.code == trace_pb2.Status.STATUS_CODE_ERROR,
            state=span.trace_state,
            resource=_values(resource.resource.attributes),
        )
        for resource in request.resource_spans
        for scope in resource.scope_spans
        for span in scope.spans
    ]


def _values(attributes: Iterable[KeyValue]) -> dict[str, object]:
    return {entry.key: getattr(entry.value, entry.value.WhichOneof("value") or "") for entry in attributes}
