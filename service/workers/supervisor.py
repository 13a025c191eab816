"""The engine process: loads and computes the models, and keeps every worker running."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from contextlib import suppress

import uvloop

from service import sockets
from service.admin import admin_port
from service.api.health import Health
from service.backend import Runner
from service.lifecycle import Lifecycle
from service.local_backend import LocalBackend
from service.metrics import Metrics
from service.model_repository import LOADING, Model, RepositoryError, open_repository
from service.settings import Settings
from service.workers.child import Child
from service.workers.memory import Layout, MemoryNotShared, SharedMemory
from service.workers.messages import News

log = logging.getLogger("service")

LONGEST_PAUSE = 30.0  # seconds before the next try to start a worker that does not come up
GRACE = 5.0  # seconds beyond the shutdown's own limits, after which workers are killed


def supervise(settings: Settings) -> int:
    """Serves until SIGTERM or Ctrl-C. Returns the exit status, as `service.__main__.main` does."""
    try:
        reserved = sockets.ReservedPort(settings.host, settings.port)
    except OSError as error:
        log.error("%s", sockets.explain(settings.host, settings.port, error))
        return sockets.EXIT_UNUSABLE
    with reserved:
        try:
            supervisor = Supervisor(settings.model_copy(update={"port": reserved.port}))
        except (RepositoryError, MemoryNotShared) as error:
            log.error("%s", error)
            return 1
        try:
            admin = admin_port(settings, supervisor.health, supervisor.metrics)
        except OSError as error:
            log.error("%s", sockets.explain(settings.host, settings.admin_port or 0, error, option="--admin-port"))
            return sockets.EXIT_UNUSABLE
        with admin:
            return uvloop.run(supervisor.run())


class Supervisor:
    """The models, and the workers they are computed for.

    Attributes:
        health: of the service, for the admin port.
        metrics: of all processes.
    """

    def __init__(self, settings: Settings) -> None:
        """Raises RepositoryError if there is nothing to serve, MemoryNotShared."""
        self._settings = settings
        self._repository = repository = open_repository(settings)
        self._models = list(repository.models.values())
        self._memory = SharedMemory.create(
            Layout(
                workers=settings.workers,
                models=len(self._models),
                slots=settings.max_queue * len(self._models),  # worst case: every request lands on one worker
                side=max(model.card.preprocessing.crop for model in self._models),
                classes=max(model.card.architecture.num_classes for model in self._models),
            )
        )
        self.metrics = Metrics(engine_pid=os.getpid)
        self.health = Health(ready=lambda: self._ready, alive=lambda: True)
        self._backend = LocalBackend(settings, self.metrics, on_broken=lambda error: self._lifecycle.give_up(error))
        self._lifecycle: Lifecycle[Runner] = Lifecycle(
            repository, self._backend, lambda model, runner: runner, on_fatal=self._fail_soon, on_status=self._spread
        )
        self._children: dict[int, Child] = {}
        self._ever_listened: set[int] = set()  # workers that have ever listened
        self._stopping = asyncio.Event()
        self._failure: str | None = None

    async def run(self) -> int:
        """The exit status."""
        self._loop = loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop, number)
        self._loading = asyncio.create_task(self._load())
        await asyncio.gather(*(self._keep(worker) for worker in range(self._settings.workers)))
        self._loading.cancel()
        await self._backend.close()
        if self._failure:
            log.error("%s", self._failure)
            return 1
        return 0

    async def _load(self) -> None:
        await self._lifecycle.load()
        self._announce()

    def _spread(self, model: Model) -> None:
        for child in self._children.values():
            child.tell(self._news(model))

    def _news(self, model: Model) -> News:
        return News(self._models.index(model), model.status.reason, model.status.info)

    def _stop(self, number: int) -> None:
        """Passes a signal on. This process ends when all workers have."""
        if not self._stopping.is_set():
            self._stopping.set()
            limit = self._settings.shutdown_delay + self._settings.shutdown_timeout + GRACE
            asyncio.get_running_loop().call_later(limit, self._kill)
        for child in self._children.values():
            child.stop(number)

    def _kill(self) -> None:
        for worker, child in self._children.items():
            if child.kill():
                log.error("worker %d (process %d) did not end in time and was killed", worker, child.pid)

    def _fail_soon(self, error: Exception) -> None:
        """From any thread."""
        with suppress(RuntimeError):  # the loop is closed: everything has ended
            self._loop.call_soon_threadsafe(self._fail, str(error))

    def _fail(self, reason: str) -> None:
        if self._stopping.is_set():  # a second signal would cut requests off
            return
        self._failure = reason
        self._stop(signal.SIGINT)

    async def _keep(self, worker: int) -> None:
        """Runs a worker and replaces it whenever it ends, until the service stops."""
        pause = 0.0
        while True:
            try:
                child = await self._start(worker)
            except OSError as error:  # no more processes, no more descriptors
                listened, end = False, f"could not be started ({error})"
            else:
                status = await child.ended()
                listened, end = child.has_listened, f"(process {child.pid}) ended with status {status}"
                if self._stopping.is_set():
                    if listened and status:
                        self._failure = self._failure or f"worker {worker} {end} while it was stopping"
                    return
            if self._stopping.is_set():
                return
            if not self._ever_listened:  # the next one would end, too
                self._fail(f"worker {worker} {end} before it listened; see the log above for the reason")
                return
            pause = 0.0 if listened else min(2 * pause or 1.0, LONGEST_PAUSE)
            log.error("worker %d %s: starting another%s", worker, end, f" in {pause:.0f} s" if pause else "")
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), pause)
                return

    async def _start(self, worker: int) -> Child:
        """Raises OSError if the system has no room for another process."""
        settings = self._settings
        decode_threads = -(-settings.decode_threads // settings.workers)  # workers share the decode threads
        child = await Child.start(
            worker,
            settings.model_copy(update={"decode_threads": decode_threads}),
            self._repository,
            self._memory,
            self._lifecycle.active,
            lambda child: self._on_listening(worker, child),
        )
        self._children[worker] = child
        for model in self._models:
            if model.status != LOADING:
                child.tell(self._news(model))
        if self._stopping.is_set():  # while it was being started
            child.stop(signal.SIGINT)
        return child

    def _on_listening(self, worker: int, child: Child) -> None:
        if self._stopping.is_set():  # it came up while the others were told to stop
            child.stop(signal.SIGINT)
        if worker in self._ever_listened:
            log.info("worker %d (process %d) listens in its place", worker, child.pid)
            return
        self._ever_listened.add(worker)
        if self._all_listen:
            host = f"[{self._settings.host}]" if ":" in self._settings.host else self._settings.host
            scheme = "https" if self._settings.tls_certificate else "http"
            log.info("%d workers on %s://%s:%d", self._settings.workers, scheme, host, self._settings.port)
            self._announce()

    @property
    def _all_listen(self) -> bool:
        return len(self._ever_listened) == self._settings.workers

    @property
    def _ready(self) -> bool:
        return self._lifecycle.ready and self._all_listen and not self._stopping.is_set()

    def _announce(self) -> None:
        if self._ready:
            self._lifecycle.announce()
