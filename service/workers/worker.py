"""A worker process: HTTP and decoding. Started by `child`, never by hand."""

from __future__ import annotations

import logging
import os
import pickle
import socket
import sys

from service.app import create_app
from service.lifecycle import NothingServed
from service.metrics import Metrics
from service.server import Server
from service.sockets import bind
from service.workers.memory import SharedMemory
from service.workers.messages import Start
from service.workers.worker_side import RemoteBackend

log = logging.getLogger("service")

# What is the same in all workers is logged once, by the engine process.
LOGGED_ONCE = ("uvicorn", "service.lifecycle")


def main() -> None:
    start: Start = pickle.load(sys.stdin.buffer)
    logging.basicConfig(
        level=start.settings.log_level.upper(),
        format=f"%(asctime)s %(levelname)s worker {start.worker}: %(name)s: %(message)s",
        stream=sys.stderr,
    )
    for name in LOGGED_ONCE:
        logging.getLogger(name).setLevel(max(logging.WARNING, logging.getLogger().level))
    backend = RemoteBackend(
        socket.socket(fileno=start.socket_fd),
        SharedMemory(start.layout, start.memory_fd),
        start.worker,
        on_stop=lambda number: server.stop(number),
        on_lost=_exit_without_engine,
    )
    metrics = Metrics()
    server = Server(
        start.settings,
        metrics,
        lambda this: create_app(
            start.settings,
            start.repository,
            backend,
            metrics=metrics,
            serving=lambda: not this.draining and backend.siblings_ready,
            before_listening=backend.catch_up,
            on_fatal=_exit_unless_handled,
        ),
        on_listening=backend.hello,
        # A signal to all processes of the service would count twice here, and a second one cuts requests off.
        heeds_signals=False,
    )
    server.run(sockets=bind(start.settings.host, start.settings.port))


def _exit_without_engine() -> None:
    """Nothing can be finished any more. Connections break, and a load balancer sends their requests elsewhere."""
    log.error("process %d exits: the engine process has gone", os.getpid())
    os._exit(1)


def _exit_unless_handled(error: Exception) -> None:
    """The engine process already handles NothingServed. On any other failure, exit: the supervisor starts another."""
    if not isinstance(error, NothingServed):
        os._exit(1)


if __name__ == "__main__":
    main()
