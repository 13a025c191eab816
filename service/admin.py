"""The admin port: health, metrics and calls that change something, on a thread with an event loop of its own.

Whatever keeps the main event loop busy, probes are answered.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import socket
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from types import TracebackType

import uvicorn
from fastapi import FastAPI

from service import tls
from service.api import health, models, problems
from service.api.access import NO_TELEMETRY, Access
from service.api.guard import Guard
from service.api.middleware import Head
from service.connections import Connections
from service.metrics import Metrics
from service.server import SECURITY_HEADERS
from service.settings import Settings
from service.sockets import bind
from service.uvicorn_protocol import Protocol

log = logging.getLogger("service")

MOST_CONNECTIONS = 50
END_S = 2.0  # for a probe in flight, when the service ends


def create_admin_app(
    settings: Settings, ready: Callable[[], bool], reload: Callable[[], None], metrics: Metrics
) -> FastAPI:
    """The application of the admin port. Arguments as of `admin_port`. Raises KeysError."""
    guard = Guard(settings, metrics)  # one of its own: a guard serves one event loop
    app = FastAPI(
        title="ResNet image classification, admin port",
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        telemetry=NO_TELEMETRY,
    )
    problems.install(app)
    app.add_middleware(Head)
    app.add_middleware(Access, metrics=metrics)
    app.include_router(health.router(ready))
    app.include_router(health.metrics_router(metrics, guard))
    app.include_router(models.reload_router(reload, guard))
    app.include_router(problems.router())
    return app


def admin_port(
    settings: Settings, ready: Callable[[], bool], reload: Callable[[], None], metrics: Metrics
) -> AbstractContextManager[object]:
    """Answers on the admin port within the context, if the settings name one.

    Args:
        ready: as in `health.router`.
        reload: as in `models.reload_router`.

    Raises:
        OSError: the port cannot be used.
        KeysError: the keys file is missing or broken.
    """
    if settings.admin_port is None:
        return nullcontext()
    return AdminServer(settings, settings.admin_port, create_admin_app(settings, ready, reload, metrics), metrics)


class AdminServer(uvicorn.Server):
    """A server on a daemon thread, for as long as its context lasts."""

    def __init__(self, settings: Settings, port: int, app: FastAPI, metrics: Metrics) -> None:
        """Raises OSError if the port cannot be used."""
        self._client_timeout = settings.client_timeout
        self._sockets = bind(settings.host, port, shared=False)
        for sock in self._sockets:
            sock.listen()  # not only on the thread: until then, another program could take the port
        # Connections of its own: the clients of the main port cannot use them up.
        connections = Connections(MOST_CONNECTIONS, settings.client_timeout, settings.min_body_rate, metrics)
        super().__init__(
            uvicorn.Config(
                app,
                http=functools.partial(Protocol, connections, settings.root_path),  # type: ignore[arg-type]
                ws="none",
                lifespan="off",
                log_config=None,
                proxy_headers=False,
                access_log=False,
                headers=SECURITY_HEADERS,
                server_header=False,
                ssl_certfile=settings.tls_certificate,
                ssl_keyfile=settings.tls_key,
                timeout_graceful_shutdown=1,
            )
        )
        self._thread = threading.Thread(target=self.run, args=(self._sockets,), name="admin", daemon=True)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        tls.limit_handshakes(asyncio.get_running_loop(), self._client_timeout)
        await super().startup(sockets)

    def __enter__(self) -> None:
        self._thread.start()
        host, port, *_ = self._sockets[0].getsockname()
        log.info("admin port: %s port %d", host, port)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.should_exit = True
        self._thread.join(END_S)
