"""uvicorn, with a shutdown that load balancers can follow."""

from __future__ import annotations

import signal
import time
from types import FrameType

import uvicorn

from service.app import create_app
from service.inference import Backend
from service.protocol import Protocol
from service.settings import Settings


class Server(uvicorn.Server):
    """SIGTERM turns readiness off, and `shutdown_delay` seconds later the port closes; requests in flight are finished
    and the process exits with 0. A second signal, or Ctrl-C, closes the port at once.
    """

    def __init__(self, settings: Settings, backend: Backend | None = None) -> None:
        """Raises RepositoryError as `create_app` does."""
        self._delay = settings.shutdown_delay
        self._close_port_at: float | None = None
        self.fatal: Exception | None = None
        app = create_app(settings, backend, draining=lambda: self.draining, on_fatal=self._stop_for)
        super().__init__(
            uvicorn.Config(
                app,
                host=settings.host,
                port=settings.port,
                http=Protocol,
                ws="none",
                log_config=None,
                proxy_headers=False,  # nothing here reads the address of a client
                access_log=False,
                timeout_graceful_shutdown=settings.shutdown_timeout,
            )
        )

    @property
    def draining(self) -> bool:
        """Whether shutting down has begun."""
        return self._close_port_at is not None or self.should_exit

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        # uvicorn's own handler would raise the signal again after the shutdown, and the process would not exit with 0.
        if sig == signal.SIGTERM and not self.draining:
            self._close_port_at = time.monotonic() + self._delay
        elif self.should_exit:
            self.force_exit = True
        else:
            self.should_exit = True

    async def on_tick(self, counter: int) -> bool:
        """Called by uvicorn ten times a second; true ends the serving."""
        due = self._close_port_at is not None and time.monotonic() >= self._close_port_at
        return await super().on_tick(counter) or due

    def _stop_for(self, error: Exception) -> None:
        """From any thread. Without the delay: what comes meanwhile would fail, and a closed port sends it elsewhere."""
        self.fatal = error
        self.should_exit = True
