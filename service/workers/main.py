"""The engine's process: loads and computes the models, starts the workers, and starts those anew that end."""

from __future__ import annotations

import asyncio
import copy
import logging
import pickle
import signal
import socket
import sys
from asyncio.subprocess import PIPE, Process
from contextlib import suppress

import uvloop
from prometheus_client.multiprocess import mark_process_dead

from service.inference import Executor, InProcess
from service.metrics import Metrics
from service.repository import Model, Repository, RepositoryError
from service.settings import Settings
from service.workers.link import Link
from service.workers.memory import Layout, SharedMemory
from service.workers.messages import News
from service.workers.worker import Start, bound

log = logging.getLogger("service")

PORT_TAKEN = 3  # uvicorn's exit status


class WorkerFailed(Exception):
    """A worker ended before it ever listened: the next one would, too."""


def serve(settings: Settings) -> int:
    """Serves until SIGTERM or Ctrl-C. Returns the exit status, as `service.__main__.main` does."""
    try:
        reserved = reserve(settings.host, settings.port)
    except OSError as error:
        log.error("%s port %d: %s", settings.host, settings.port, error)
        return PORT_TAKEN
    with reserved:
        port = reserved.getsockname()[1]
        try:
            supervisor = Supervisor(settings.model_copy(update={"port": port}))
        except (RepositoryError, OSError) as error:
            log.error("%s", error)
            return 1
        log.info("%d workers on http://%s:%d", settings.workers, settings.host, port)
        return uvloop.run(supervisor.run())


def reserve(host: str, port: int) -> socket.socket:
    """Keeps a port for the workers, without listening. Raises OSError if somebody else has it."""
    # Sharing a port is allowed to every process of this user: a second service would take half of the requests.
    bound(host, port, shared=False).close()
    return bound(host, port)


class Supervisor:
    """The models, and the workers they are computed for."""

    def __init__(self, settings: Settings) -> None:
        """Raises RepositoryError when there is nothing to serve, OSError where memory cannot be shared."""
        self._settings = settings
        self._settings_of_worker = settings.model_copy(
            update={"decode_threads": -(-settings.decode_threads // settings.workers)}
        )
        self._repository = Repository(settings.models_dir, only=settings.models, default=settings.default_model)
        self._models = list(self._repository.models.values())
        self._unloaded = copy.deepcopy(self._repository)  # for the workers: later the models have engines
        self._memory = SharedMemory.create(
            Layout(
                workers=settings.workers,
                models=len(self._models),
                slots=settings.max_queue * len(self._models),  # a worker may be the only one that is asked
                side=max(model.card.preprocessing.crop for model in self._models),
                classes=max(model.card.architecture.num_classes for model in self._models),
            )
        )
        self._backend = InProcess(self._repository, settings, Metrics())
        self._executors: list[Executor | None] = [None] * len(self._models)
        self._news: list[News] = []
        self._links: dict[int, Link] = {}
        self._processes: dict[int, Process] = {}
        self._stopping = False
        self._failure: Exception | None = None

    async def run(self) -> int:
        """The exit status."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop, number)
        loading = asyncio.create_task(self._load())
        await asyncio.gather(*(self._keep(worker) for worker in range(self._settings.workers)))
        self._backend.stop_loading()
        await loading
        for executor in self._executors:
            if executor is not None:
                await asyncio.to_thread(executor.close)
        if self._failure:
            log.error("%s", self._failure)
            return 1
        return 0

    def _stop(self, number: signal.Signals) -> None:
        """Workers know what to do with signals; when all have ended, so does this process."""
        self._stopping = True
        for process in self._processes.values():
            with suppress(ProcessLookupError):
                process.send_signal(number)

    def _fail(self, error: Exception) -> None:
        self._failure = self._failure or error
        self._stop(signal.SIGINT)

    async def _load(self) -> None:
        loop = asyncio.get_running_loop()

        def load() -> None:
            for model, executor in self._backend.load():
                loop.call_soon_threadsafe(self._loaded, model, executor)

        try:
            await asyncio.to_thread(load)
            self._repository.require_default()
        except Exception as error:
            self._fail(error)
            return
        if not self._stopping:
            log.info("ready: %s", ", ".join(model.name for model in self._models if model.state == "ready"))

    def _loaded(self, model: Model, executor: Executor | None) -> None:
        index = self._models.index(model)
        self._executors[index] = executor
        if executor is not None:
            model.state = "ready"
        news = News(index, model.reason, model.info)
        self._news.append(news)
        for link in self._links.values():
            link.tell(news)

    async def _keep(self, worker: int) -> None:
        """Runs a worker, and another in its place when it ends, until all of them are to stop."""
        while True:
            link, process = await self._start(worker)
            status = await process.wait()
            link.close()
            mark_process_dead(process.pid)  # type: ignore[no-untyped-call]
            if self._stopping:
                return
            if not link.greeted:
                self._fail(WorkerFailed(f"worker {worker} ended with status {status} before it listened"))
                return
            log.error("worker %d (process %d) ended with status %d: starting another", worker, process.pid, status)

    async def _start(self, worker: int) -> tuple[Link, Process]:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                *("-m", "service.workers.worker"),
                stdin=PIPE,
                pass_fds=(theirs.fileno(), self._memory.fd),
                start_new_session=True,  # Ctrl-C in a terminal reaches this process alone, which passes it on
            )
            start = Start(
                worker,
                self._settings_of_worker,
                self._unloaded,
                self._memory.layout,
                memory_fd=self._memory.fd,
                socket_fd=theirs.fileno(),
            )
            assert process.stdin is not None
            process.stdin.write(pickle.dumps(start))
            process.stdin.close()
        link = Link(ours, self._memory, worker, self._models, self._executors, on_lost=process.kill)
        self._links[worker], self._processes[worker] = link, process
        for news in self._news:
            link.tell(news)
        if self._stopping:  # the signal came while it was being started
            process.send_signal(signal.SIGINT)
        return link, process
