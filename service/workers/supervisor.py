"""The engine process: loads and computes the models, and keeps every worker running."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import Iterator
from contextlib import ExitStack, suppress

import uvloop

from service import sockets
from service.admin import admin_port
from service.backend import Work
from service.hard_end import GRACE_S, end_in, last_words
from service.keys import KeysError
from service.lifecycle import Lifecycle
from service.local_backend import LocalBackend
from service.metrics import Metrics
from service.model_repository import LOADING, Model, RepositoryError, open_repository
from service.operating_state import OperatingState
from service.published import Listing
from service.runtime.images import encoded
from service.settings import Settings
from service.tracing.setup import open_spans
from service.watchdog import EVENT_LOOP, Watchdog, end_process
from service.workers.child import Child
from service.workers.memory import MemoryNotShared, SharedMemory
from service.workers.messages import Mark, News, Shown
from service.workers.model_table import ModelTable, layout_for
from service.workers.worker_side import BEAT_S

log = logging.getLogger("service")

# Seconds before the next try to start a worker that did not come up, or ended at once.
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 30.0
SETTLED_S = 5.0  # a worker that has lived so long is replaced without a pause


def supervise(settings: Settings) -> int:
    """Serves until SIGTERM or Ctrl-C. Returns the exit status, as `service.__main__.main` does."""
    with ExitStack() as reserved:
        ports = {"--port": settings.port, "--grpc-port": settings.grpc_port}
        for option, port in ports.items():
            if port is None:
                continue
            try:
                ports[option] = reserved.enter_context(sockets.ReservedPort(settings.host, port)).port
            except OSError as error:
                log.error("%s", sockets.explain(settings.host, port, error, option=option))
                return sockets.EXIT_UNUSABLE
        try:
            supervisor = Supervisor(settings.model_copy(update={"port": ports["--port"]}))
        except (RepositoryError, MemoryNotShared) as error:
            log.error("%s", error)
            return 1
        try:
            admin = admin_port(settings, supervisor.ready, supervisor.reload, supervisor.metrics)
        except OSError as error:
            log.error("%s", sockets.explain(settings.host, settings.admin_port or 0, error, option="--admin-port"))
            return sockets.EXIT_UNUSABLE
        except KeysError as error:
            log.error("%s", error)
            return 1
        with admin:
            return uvloop.run(supervisor.run())


class Supervisor:
    """The models, and the workers they are computed for.

    Attributes:
        metrics: of all processes.
    """

    def __init__(self, settings: Settings) -> None:
        """Raises RepositoryError if there is nothing to serve, MemoryNotShared."""
        self._settings = settings
        self._repository = repository = open_repository(settings)
        jpeg_bytes = encoded.MAX_BYTES if settings.gpu_decoding else 0
        self._memory = SharedMemory.create(layout_for(repository.versions, settings.workers, jpeg_bytes))
        self._loaded = ModelTable(self._memory)
        self._is_loaded = False
        self._shown = Shown.of(repository)
        self._released = asyncio.Event()
        self.metrics = Metrics(settings.metrics_buckets, engine_pid=os.getpid)
        self.metrics.look_up(OperatingState(self.ready, settings.target_wait_ms / 1000))
        self._spans = open_spans("engine")
        self._backend = LocalBackend(
            settings,
            self.metrics,
            spans=self._spans,
            on_broken=lambda error: self._lifecycle.give_up(error),
            unfit=self._loaded.unfit,
        )
        self._lifecycle: Lifecycle[int] = Lifecycle(
            repository,
            self._backend,
            self._loaded.add,
            self._vacated,
            on_fatal=self._fail_soon,
            on_change=self._spread,
            required=settings.models,
        )
        self._watchdog = Watchdog(settings.hang_timeout, self._work, self._on_hang)
        self._children: dict[int, Child] = {}
        self._ever_listened: set[int] = set()  # workers that have ever listened
        self._stopping = asyncio.Event()
        self._failure: str | None = None

    def ready(self) -> bool:
        """Whether load balancers should send requests here. From any thread."""
        listens = self._all_listen and any(child.listens for child in list(self._children.values()))
        return self._lifecycle.ready and listens and not self._stopping.is_set()

    def reload(self) -> None:
        """Begins to look at the model folder. From any thread."""
        self._backend.reload()

    async def run(self) -> int:
        """The exit status."""
        self._loop = loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop, number)
        self._beat()
        self._watchdog.start()
        self._loading = asyncio.create_task(self._load())
        await asyncio.gather(*(self._keep(worker) for worker in range(self._settings.workers)))
        self._loading.cancel()
        await self._backend.close()
        self._watchdog.stop()
        if self._spans:
            await asyncio.to_thread(self._spans.close)
        if self._failure:
            log.error("%s", self._failure)
            return 1
        return 0

    def _beat(self) -> None:
        self._memory.beats[-1] += 1
        self._loop.call_later(BEAT_S, self._beat)

    def _work(self) -> Iterator[Work]:
        """What the watchdog watches: the engines, this process's event loop, and the workers' ones."""
        yield from self._backend.work()
        yield Work(EVENT_LOOP, int(self._memory.beats[-1]))
        for worker, child in list(self._children.items()):
            # A worker that does not listen yet may be busy with its imports. One whose loop has ended may take a while
            # to end: `_kill` limits that.
            beats = int(self._memory.beats[worker]) if child.listens else 0
            yield Work(f"worker {worker}", beats or None)

    def _on_hang(self, work: Work) -> None:
        """On the watchdog's thread. A worker is replaced; without its engine this process is worth nothing."""
        for worker, child in list(self._children.items()):
            if work.part == f"worker {worker}":
                last_words(log, logging.ERROR, "worker %d (process %d) is killed", worker, child.pid)
                child.kill()
                return
        end_process(work)

    async def _load(self) -> None:
        await self._lifecycle.load()
        self._is_loaded = True
        for child in self._children.values():
            child.tell(Mark.LOADED)
        self._announce()
        await self._lifecycle.follow()

    async def _vacated(self, index: int) -> None:
        """Returns when no worker uses a model any more. Then it loses its index."""
        while any(child.uses(index) for child in self._children.values()):
            self._released.clear()
            await self._released.wait()
        del self._loaded[index]

    def _spread(self, news: Model | Listing) -> None:
        self.metrics.show_states(self._repository.states)
        shown = Shown.of(self._repository)
        messages: list[Shown | News] = []
        if shown != self._shown:
            self._shown = shown
            messages.append(shown)
        if isinstance(news, Model):
            messages.append(self._news(news))
        for child in self._children.values():
            for message in messages:
                child.tell(message)
        self._announce()

    def _news(self, model: Model) -> News:
        index = self._lifecycle.active(model) if model.status.info else 0
        return News(model, index, model.status.reason, model.status.info)

    def _stop(self, number: int) -> None:
        """Passes a signal on. This process ends when all workers have."""
        if not self._stopping.is_set():
            self._stopping.set()
            # The workers end by themselves in this time, then they are killed.
            limit = self._settings.shutdown_delay + self._settings.shutdown_timeout + GRACE_S
            asyncio.get_running_loop().call_later(limit, self._kill)
            end_in(limit + GRACE_S)
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
            self.metrics.worker_restarts.inc()
            settled = listened and child.lived > SETTLED_S
            pause = 0.0 if settled else min(2 * pause or FIRST_PAUSE, LONGEST_PAUSE)
            log.error("worker %d %s: starting another%s", worker, end, f" in {pause:.0f} s" if pause else "")
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), pause)
                return

    async def _start(self, worker: int) -> Child:
        """Raises OSError if the system has no room for another process."""
        repository = self._repository
        child = await Child.start(
            worker,
            self._settings,
            repository,
            self._memory,
            self._loaded,
            lambda child: self._on_listening(worker, child),
            self._released.set,
            self.reload,
        )
        self._children[worker] = child
        child.tell(Shown.of(repository))  # it may have changed since the worker was given it
        for model in repository.versions:
            if model.status != LOADING:
                child.tell(self._news(model))
        child.tell(Mark.CAUGHT_UP)
        if self._is_loaded:
            child.tell(Mark.LOADED)
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
            if self._settings.grpc_port is not None:
                log.info("gRPC on %s:%d", host, self._settings.grpc_port)
            self._announce()

    @property
    def _all_listen(self) -> bool:
        return len(self._ever_listened) == self._settings.workers

    def _announce(self) -> None:
        if self.ready():
            self._lifecycle.announce()
