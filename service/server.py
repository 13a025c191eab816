"""uvicorn, with a shutdown that load balancers can follow."""

from __future__ import annotations

import asyncio
import functools
import logging
import os
import signal
import socket
import time
from collections.abc import Callable
from types import FrameType

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.flow_control import CLOSE_HEADER

from service import tls
from service.closing import Closing
from service.connections import Connections, most_connections
from service.hard_end import GRACE_S, end_in
from service.metrics import Metrics
from service.settings import Settings
from service.sockets import raise_open_files_limit
from service.uvicorn_protocol import Protocol

log = logging.getLogger(__name__)

# On every answer. (The pages add a Content-Security-Policy: `api.documentation`.)
SECURITY_HEADERS = [
    ("X-Content-Type-Options", "nosniff"),
    ("X-Frame-Options", "DENY"),
    ("Referrer-Policy", "no-referrer"),
    ("Cache-Control", "no-store"),
]


class Server(uvicorn.Server):
    """SIGTERM turns readiness off and closes the port `shutdown_delay` seconds later. Until then, each answer closes
    its connection. Requests in flight are finished and the process exits with 0. A second signal, or Ctrl-C, closes the
    port at once; a further one cuts requests off, which get 503.

    The end is certain: `GRACE_S` after the limits of `Settings` have passed, a process in `run` exits with 1, whatever
    its threads and connections do.

    Attributes:
        fatal: why nothing can be served any more.
        closing: the end, for what ends with it.
    """

    def __init__(
        self,
        settings: Settings,
        metrics: Metrics,
        app: Callable[[Server], ASGIApp],
        *,
        on_listening: Callable[[], None] = lambda: None,
        heeds_signals: bool = True,
    ) -> None:
        """
        Args:
            app: makes the application for this server, which is not set up yet: it may only keep the reference.
            on_listening: called once connections are accepted.
            heeds_signals: False for a process whose parent decides when it stops, with `stop`.
        """
        self.fatal: Exception | None = None
        self.closing = Closing()
        self._client_timeout = settings.client_timeout
        self._delay = settings.shutdown_delay
        self._longest_end = settings.shutdown_delay + settings.shutdown_timeout + GRACE_S
        self._owns_process = False
        self._ending = False
        self._close_port_at: float | None = None
        self._on_listening = on_listening
        self._heeds_signals = heeds_signals
        most = most_connections(settings.max_connections, raise_open_files_limit())
        if most < settings.max_connections:
            log.warning("at most %d connections, because of the limit of open files (ulimit -n)", most)
        limits = Connections(most, settings.client_timeout, settings.min_body_rate, metrics)
        super().__init__(
            uvicorn.Config(
                app(self),
                host=settings.host,
                port=settings.port,
                http=functools.partial(Protocol, limits, settings.root_path),  # type: ignore[arg-type]
                ws="none",
                log_config=None,
                proxy_headers=False,  # nothing here reads the client's address
                access_log=False,
                headers=SECURITY_HEADERS,
                server_header=False,
                ssl_certfile=settings.tls_certificate,
                ssl_keyfile=settings.tls_key,
                timeout_graceful_shutdown=settings.shutdown_timeout,
            )
        )

    @property
    def draining(self) -> bool:
        """Whether shutting down has begun."""
        return self._close_port_at is not None or self.should_exit

    def stop(self, number: int) -> None:
        """Begins to shut down, as this signal asks."""
        self._end_in_time()
        if number == signal.SIGTERM and not self.draining:
            self._close_port_at = time.monotonic() + self._delay
            self._send_clients_away()
        elif self.should_exit:
            self.force_exit = True
        else:
            self.should_exit = True

    def _send_clients_away(self) -> None:
        """Closes each connection with its next answer. A client that keeps one open would otherwise send a request just
        when the port closes, and get no answer: a Kubernetes Service, for one, moves new connections only.
        """
        self.config.encoded_headers.append(CLOSE_HEADER)  # of which uvicorn makes the others, once a second
        self.server_state.default_headers = [*self.server_state.default_headers, CLOSE_HEADER]

    def fail(self, error: Exception) -> None:
        """Shuts down at once, from any thread: requests that came meanwhile would fail, a closed port diverts them."""
        self.fatal = error
        self._end_in_time()
        self.should_exit = True

    def run(self, sockets: list[socket.socket] | None = None) -> None:
        self._owns_process = True
        super().run(sockets)
        if self.force_exit and self.fatal is None:
            # The application has not been shut down. Engines and decoders still run: the interpreter would wait for
            # them, or abort when they call it.
            log.info("stopped at once")
            os._exit(0)

    def _end_in_time(self) -> None:
        """Sees to it that the process ends, even if its event loop or one of its threads hangs."""
        if self._owns_process and not self._ending:
            self._ending = True
            end_in(self._longest_end)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        tls.limit_handshakes(asyncio.get_running_loop(), self._client_timeout)
        await super().startup(sockets)
        self._on_listening()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self.closing.begun.set()
        for task in self.closing.awaited:
            self.server_state.tasks.add(task)
            task.add_done_callback(self.server_state.tasks.discard)
        await super().shutdown(sockets)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Replaces uvicorn's handler, which would raise the signal again in the end instead of exiting with 0."""
        if self._heeds_signals:
            self.stop(sig)

    async def on_tick(self, counter: int) -> bool:
        """Called by uvicorn ten times a second; true ends the serving."""
        due = self._close_port_at is not None and time.monotonic() >= self._close_port_at
        return await super().on_tick(counter) or due
