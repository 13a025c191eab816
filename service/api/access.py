"""One line in the log, one id and one measurement for each request."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from urllib.parse import quote

from starlette._utils import get_route_path
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service import request_ids
from service.logs import ACCESS
from service.metrics import Metrics
from service.runtime.faults import Fault

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
MOST_CHARACTERS = 1000  # of what a client has sent, in a line: an address may have 65,535
CLIENT_LEFT = 499  # nginx's code for it


class Access:
    """Names every request, and says afterwards what became of it.

    The outermost middleware. The id is in `request_ids.current`, in the answer's header X-Request-ID, in problem
    documents and in the log. What else the line says, handlers `note`.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        headers = Headers(scope=scope)
        request_id = request_ids.begin(headers.get(request_ids.HEADER))
        _notes(scope)  # before copies of the scope are made: they share it
        status = CLIENT_LEFT  # if there is no answer

        async def noting(message: Message) -> None:
            if message["type"] == "http.response.start":
                nonlocal status
                status = message["status"]
                MutableHeaders(scope=message)[request_ids.HEADER] = request_id
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
            self._metrics.http.labels(_handler(path), status).observe(took)
            _write(scope, headers, path, status, took)


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
