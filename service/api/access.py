"""One line in the log, one id and one measurement for each request."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from starlette._utils import get_route_path
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service import request_ids
from service.logs import ACCESS
from service.metrics import Metrics
from service.runtime.faults import Fault
from service.tracing import traces

if TYPE_CHECKING:
    from fastapi.telemetry import TelemetryConfig

    from service.tracing.spans import Spans, Traced

log = logging.getLogger(ACCESS)

# First parts of the paths that there are. Others have one label together: clients must not be able to make series.
HANDLERS = frozenset(
    (
        "classify",
        "explain",
        "embed",
        "preview",
        "models",
        "healthz",
        "metrics",
        "version",
        "docs",
        "static",
        "openapi.json",
        "problems",
        *("v1", "v2", "predictions", "invocations", "ping"),  # of other servers' protocols
    )
)
PROBES = ("healthz", "metrics", "v2/health", "ping")  # asked every few seconds, of no interest while answered well
# Those whose POST has images.
TRACED = frozenset(("classify", "explain", "embed", "preview", "v1", "v2", "predictions", "invocations"))
# FastAPI's own traces know neither queue nor batch, and their logs hold what clients sent.
NO_TELEMETRY: TelemetryConfig = {"tracing": False, "metrics": False, "logs": False, "auto_configure": False}
MOST_CHARACTERS = 1000  # of what a client has sent, in a line: an address may have 65,535
CLIENT_LEFT = 499  # nginx's code for it


class Access:
    """Names every request, and says afterwards what became of it.

    The outermost middleware. The id is in `request_ids.current`, in the answer's header X-Request-ID, in problem
    documents and in the log. What else the line says, handlers `note`.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics, spans: Spans | None = None) -> None:
        """
        Args:
            spans: where requests with images are traced.
        """
        self._app = app
        self._metrics = metrics
        self._spans = spans

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        headers = Headers(scope=scope)
        request_id = request_ids.begin(headers.get(request_ids.HEADER))
        trace = self._begin_trace(scope, headers, started) if self._spans else None
        _notes(scope)  # before copies of the scope are made: they share it
        status = CLIENT_LEFT  # if there is no answer

        async def noting(message: Message) -> None:
            if message["type"] == "http.response.start":
                nonlocal status
                status = message["status"]
                answered = MutableHeaders(scope=message)
                answered[request_ids.HEADER] = request_id
                if trace:
                    answered[traces.RESPONSE] = trace.response
            await send(message)

        self._metrics.in_flight.inc()
        try:
            await self._app(scope, receive, noting)
        except Exception:
            status = 500  # as the handler of such errors is about to answer
            raise
        finally:
            took = time.perf_counter() - started
            self._metrics.in_flight.dec()
            path = get_route_path(scope).strip("/")
            self._metrics.http.labels(_handler(path), status).observe(took, trace.ids if trace else None)
            _write(scope, headers, path, status, took)
            if trace:
                self._end_trace(trace, scope, request_id, status, started, took)

    def _begin_trace(self, scope: Scope, headers: Headers, started: float) -> Traced | None:
        trace = None
        if scope["method"] == "POST" and handler_of(scope) in TRACED:
            assert self._spans
            trace = self._spans.begin(headers.getlist, "POST", started)
        traces.begin(trace)
        return trace

    def _end_trace(
        self, trace: Traced, scope: Scope, request_id: str, status: int, started: float, took: float
    ) -> None:
        """Makes the spans, with OpenTelemetry's names for what belongs to HTTP."""
        route = getattr(scope.get("route"), "path", "")
        attributes: dict[str, Any] = {
            "http.request.method": scope["method"],
            "http.response.status_code": status,
            "network.protocol.version": scope["http_version"],
            "url.scheme": scope["scheme"],
            "url.path": quote(scope["path"][:MOST_CHARACTERS]),
            "resnet.request_id": request_id,
            **own_attributes(_notes(scope)),
        }
        if route:
            attributes["http.route"] = route
        if client := scope.get("client"):
            attributes["client.address"] = client[0]
        failed = status >= 500
        error = str(_notes(scope).get("problem", status if failed else ""))
        assert self._spans
        self._spans.end(trace, started, took, f"POST {route}".strip(), attributes, error, failed=failed)


def own_attributes(noted: Mapping[str, object]) -> dict[str, Any]:
    """What the line of a request says of images, models and keys, as attributes of its span."""
    return {f"resnet.{name}": value for name, value in noted.items() if name not in ("client", "problem")}


def refused(fault: Fault, request_id: str, client: tuple[str, int] | None) -> None:
    """The line of a request that never became one: its connection was at fault, or what came over it."""
    fields = {"client": client[0] if client else "-", "problem": fault.slug}
    said = " ".join(f"{name}={value}" for name, value in fields.items())
    log.info("refused: %a %s", str(fault)[:MOST_CHARACTERS], said, extra={"request_id": request_id, "fields": fields})


def note(request: Request, **facts: object) -> None:
    """Adds to the line of this request. Nothing that a client could have written as it pleased."""
    _notes(request.scope).update(facts)


def noted(request: Request, name: str) -> str:
    """A fact of this request's line; empty without it."""
    return str(_notes(request.scope).get(name, ""))


def _notes(scope: Scope) -> dict[str, object]:
    notes: dict[str, object] = scope.setdefault("state", {}).setdefault("access", {})
    return notes


def handler_of(scope: Scope) -> str:
    """The first part of the path; `other` if no path of the service begins so."""
    return _handler(get_route_path(scope).strip("/"))


def _handler(path: str) -> str:
    first = path.partition("/")[0]
    return first if first in HANDLERS else "other"


def _write(scope: Scope, headers: Headers, path: str, status: int, took: float) -> None:
    level = logging.DEBUG if status < 300 and path.startswith(PROBES) else logging.INFO
    if not log.isEnabledFor(level):
        return
    noted: dict[str, object] = {}
    if client := scope.get("client"):
        noted["client"] = client[0]
    if size := headers.get("content-length"):
        noted["bytes"] = int(size) if size.isdecimal() else quote(size)
    write_line(level, scope["method"], quote(scope["path"][:MOST_CHARACTERS]), status, took, noted | _notes(scope))


def write_line(level: int, method: str, path: str, status: int | str, took: float, noted: Mapping[str, object]) -> None:
    """Writes the line of a request, over any transport. `took`: seconds."""
    ms = round(1000 * took, 1)
    said = "".join(f" {name}={value}" for name, value in noted.items())
    fields = {"method": method, "path": path, "status": status, "ms": ms, **noted}
    log.log(level, "%s %s %s in %.1f ms%s", method, path, status, ms, said, extra={"fields": fields})
