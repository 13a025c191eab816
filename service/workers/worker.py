"""A worker: HTTP and decoding, in a process of its own. Started by `main`, never by hand."""

from __future__ import annotations

import logging
import os
import pickle
import socket
import sys
from dataclasses import dataclass

from service.repository import Repository
from service.server import Server
from service.settings import Settings
from service.workers.memory import Layout, SharedMemory
from service.workers.remote import Remote

log = logging.getLogger("service")


@dataclass(frozen=True)
class Start:
    """What a worker is told on its standard input."""

    worker: int
    settings: Settings
    repository: Repository  # nothing is loaded yet
    layout: Layout
    memory_fd: int
    socket_fd: int


def bound(host: str, port: int, *, shared: bool = True) -> socket.socket:
    """A socket that has a port: shared with other workers' sockets (connections are divided among those that listen),
    or alone. Raises OSError.
    """
    (family, kind, protocol, _, address), *_ = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    sock = socket.socket(family, kind, protocol)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, shared)
        sock.bind(address)
    except OSError:
        sock.close()
        raise
    return sock


class WorkerServer(Server):
    """A server whose models are computed by another process; without that, it ends."""

    def __init__(self, start: Start) -> None:
        sock = socket.socket(fileno=start.socket_fd)
        memory = SharedMemory(start.layout, start.memory_fd)
        self._remote = Remote(sock, memory, start.worker, start.repository, on_lost=self._engine_lost)
        self.engine_lost = False
        super().__init__(start.settings, self._remote)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        self._remote.attach()
        await super().startup(sockets)
        self._remote.hello()

    def _engine_lost(self) -> None:
        self.engine_lost = True
        self.should_exit = True

    def _stop_for(self, error: Exception) -> None:
        """Nothing: the engine's process knows it too, says so, and ends the workers."""


def main() -> int:
    """The exit status: 0 after SIGTERM, 1 if the engine's process has gone."""
    start: Start = pickle.load(sys.stdin.buffer)
    logging.basicConfig(
        level=start.settings.log_level.upper(),
        format=f"%(asctime)s %(levelname)s worker {start.worker}: %(name)s: %(message)s",
        stream=sys.stderr,
    )
    logging.getLogger("uvicorn").setLevel(logging.WARNING)  # the engine's process says what is going on
    server = WorkerServer(start)
    server.run(sockets=[bound(start.settings.host, start.settings.port)])
    if server.engine_lost:
        log.error("process %d ends: the engine's process has gone", os.getpid())
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
