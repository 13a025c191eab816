"""One worker process, as the supervisor sees it."""

from __future__ import annotations

import asyncio
import os
import pickle
import socket
import sys
import time
from asyncio.subprocess import Process
from collections.abc import Callable, Mapping

from service import counter_files
from service.model_repository import Repository
from service.settings import Settings
from service.workers.engine_side import EngineSide
from service.workers.memory import SharedMemory
from service.workers.messages import Mark, News, Shown, Start, Stop
from service.workers.model_table import Loaded


class Child:
    """A worker process, and this side of the socket to it.

    Attributes:
        has_listened: whether the worker has ever said that it accepts connections.
    """

    def __init__(self, process: Process, side: EngineSide) -> None:
        self.has_listened = False
        self._started = time.monotonic()
        self._process = process
        self._side = side

    @classmethod
    async def start(
        cls,
        worker: int,
        settings: Settings,
        repository: Repository,
        memory: SharedMemory,
        loaded: Mapping[int, Loaded],
        on_listening: Callable[[Child], None],
        on_release: Callable[[], None],
        on_reload: Callable[[], None],
    ) -> Child:
        """The arguments from `loaded` on as in `EngineSide`. Raises OSError if there is no room for another process."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        start = Start(
            worker,
            settings,
            repository,
            memory.layout,
            memory_fd=memory.fd,
            socket_fd=theirs.fileno(),
            engine_pid=os.getpid(),
        )
        try:
            # A file instead of a pipe: the worker may end before all of it is written.
            with theirs, os.fdopen(os.memfd_create("start"), "w+b") as stdin:
                pickle.dump(start, stdin)
                stdin.seek(0)
                process = await asyncio.create_subprocess_exec(
                    sys.executable,
                    *("-m", "service.workers.worker"),
                    stdin=stdin,
                    pass_fds=(start.socket_fd, start.memory_fd),
                    start_new_session=True,  # Ctrl-C in a terminal reaches the supervisor alone, which passes it on
                )
        except OSError:
            ours.close()
            raise

        def hello() -> None:
            child.has_listened = True
            on_listening(child)

        side = EngineSide(ours, memory, worker, loaded, hello, on_release, on_reload)
        child = cls(process, side)
        return child

    @property
    def listens(self) -> bool:
        """Whether it accepts connections now, as far as is known."""
        return self.has_listened and self._process.returncode is None

    @property
    def lived(self) -> float:
        """Seconds since it was started."""
        return time.monotonic() - self._started

    @property
    def pid(self) -> int:
        return self._process.pid

    def tell(self, message: News | Shown | Mark) -> None:
        self._side.tell(message)

    def uses(self, index: int) -> bool:
        """Whether the worker may still send images for a model."""
        return index in self._side.uses

    def stop(self, number: int) -> None:
        """Passes a signal on."""
        if self.has_listened:
            self._side.tell(Stop(number))
        elif self._process.returncode is None:  # it has nothing to finish
            self._process.terminate()

    def kill(self) -> bool:
        """Kills the process unless it has ended; returns whether it had to."""
        if self._process.returncode is not None:
            return False
        self._process.kill()
        return True

    async def ended(self) -> int:
        """Waits for the process to end; returns its exit status."""
        status = await self._process.wait()
        self._side.close()
        counter_files.forget_process(self._process.pid)
        return status
