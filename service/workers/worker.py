"""A worker: HTTP and decoding, in a process of its own. Started by `main`, never by hand."""

from __future__ import annotations

import logging
import os
import pickle
import socket
import sys
from types import FrameType

from service.ports import bound
from service.repository import NothingServed
from service.server import Server
from service.workers.memory import SharedMemory
from service.workers.messages import Start
from service.workers.remote import Remote

log = logging.getLogger("service")


class WorkerServer(Server):
    """A server whose models are computed by another process, which also says when to stop."""

    def __init__(self, start: Start) -> None:
        self._remote = Remote(
            socket.socket(fileno=start.socket_fd),
            SharedMemory(start.layout, start.memory_fd),
            start.worker,
            start.repository,
            on_stop=lambda number: Server.handle_exit(self, number, None),
            on_lost=end_at_once,
        )
        super().__init__(start.settings, self._remote)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        self._remote.attach()
        await super().startup(sockets)
        self._remote.hello()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Nothing: a signal to all processes of the service would count twice, and twice means at once."""

    def _stop_for(self, error: Exception) -> None:
        """That nothing is served the engine's process knows, too: it says so and ends the workers. Of anything else it
        learns, and does something about it, when this worker ends.
        """
        if not isinstance(error, NothingServed):
            os._exit(1)


def end_at_once() -> None:
    """Without an engine nothing can be finished. Connections break, and a balancer sends their requests elsewhere."""
    log.error("process %d ends: the engine's process has gone", os.getpid())
    os._exit(1)


def main() -> None:
    start: Start = pickle.load(sys.stdin.buffer)
    logging.basicConfig(
        level=start.settings.log_level.upper(),
        format=f"%(asctime)s %(levelname)s worker {start.worker}: %(name)s: %(message)s",
        stream=sys.stderr,
    )
    for name in ("uvicorn", "service.app"):  # what is the same in all workers, the engine's process says once
        logging.getLogger(name).setLevel(max(logging.WARNING, logging.getLogger().level))
    WorkerServer(start).run(sockets=bound(start.settings.host, start.settings.port))


if __name__ == "__main__":
    main()
