"""The engine's process: loads and computes the models, starts the workers, and starts those anew that end."""

from __future__ import annotations

import asyncio
import copy
import functools
import logging
import os
import pickle
import signal
import socket
import sys
from asyncio.subprocess import Process
from contextlib import suppress

import uvloop
from prometheus_client.multiprocess import mark_process_dead

from service import ports
from service.inference import EngineBroken, Executor, InProcess
from service.metrics import Metrics
from service.repository import Model, NothingServed, Repository, RepositoryError
from service.settings import Settings
from service.workers.link import Link
from service.workers.memory import Layout, MemoryNotShared, SharedMemory
from service.workers.messages import News, Start, Stop

log = logging.getLogger("service")

LONGEST_PAUSE = 30.0  # seconds before a worker that does not come up is tried again
GRACE = 5.0  # seconds beyond the shutdown's own limits, after which workers are killed


def serve(settings: Settings) -> int:
    """Serves until SIGTERM or Ctrl-C. Returns the exit status, as `service.__main__.main` does."""
    try:
        reserved = ports.Reserved(settings.host, settings.port)
    except OSError as error:
        log.error("%s", ports.fault(settings.host, settings.port, error))
        return ports.UNUSABLE
    with reserved:
        try:
            supervisor = Supervisor(settings.model_copy(update={"port": reserved.port}))
        except (RepositoryError, MemoryNotShared) as error:
            log.error("%s", error)
            return 1
        return uvloop.run(supervisor.run())


class Supervisor:
    """The models, and the workers they are computed for."""

    def __init__(self, settings: Settings) -> None:
        """Raises RepositoryError when there is nothing to serve, MemoryNotShared."""
        self._settings = settings
        self._repository = Repository(settings.models_dir, only=settings.models, default=settings.default_model)
        self._unloaded = copy.deepcopy(self._repository)  # for the workers: later the models have engines
        self._models = list(self._repository.models.values())
        self._memory = SharedMemory.create(
            Layout(
                workers=settings.workers,
                models=len(self._models),
                slots=settings.max_queue * len(self._models),  # a worker may be the only one that is asked
                side=max(model.card.preprocessing.crop for model in self._models),
                classes=max(model.card.architecture.num_classes for model in self._models),
            )
        )
        self._backend = InProcess(self._repository, settings, Metrics(), self._broken)
        self._executors: list[Executor | None] = [None] * len(self._models)
        self._news: list[News] = []
        self._links: dict[int, Link] = {}
        self._processes: dict[int, Process] = {}
        self._all_loaded = False
        self._listening: set[int] = set()  # workers that have come up, ever
        self._stopping = asyncio.Event()
        self._failure: str | None = None

    async def run(self) -> int:
        """The exit status."""
        self._loop = loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop, number)
        loading = asyncio.create_task(self._load())
        await asyncio.gather(*(self._keep(worker) for worker in range(self._settings.workers)))
        await loading
        for executor in self._executors:
            if executor is not None:
                await asyncio.to_thread(executor.close)
        if self._failure:
            log.error("%s", self._failure)
            return 1
        return 0

    def _stop(self, number: int) -> None:
        """Passes a signal on; when all workers have ended, so does this process."""
        if not self._stopping.is_set():
            self._stopping.set()
            self._backend.stop_loading()
            limit = self._settings.shutdown_delay + self._settings.shutdown_timeout + GRACE
            asyncio.get_running_loop().call_later(limit, self._kill)
        for worker in self._processes:
            self._stop_worker(worker, number)

    def _stop_worker(self, worker: int, number: int) -> None:
        link, process = self._links[worker], self._processes[worker]
        if link.greeted:
            link.tell(Stop(number))
        elif process.returncode is None:  # it has nothing to finish
            process.terminate()

    def _kill(self) -> None:
        for worker, process in self._processes.items():
            if process.returncode is None:
                log.error("worker %d (process %d) does not end: killing it", worker, process.pid)
                process.kill()

    def _fail(self, reason: str) -> None:
        if self._stopping.is_set():  # a second signal would mean at once
            return
        self._failure = reason
        self._stop(signal.SIGINT)

    def _broken(self, error: EngineBroken) -> None:
        """On a lane's thread."""
        with suppress(RuntimeError):  # the loop has been closed: all has ended
            self._loop.call_soon_threadsafe(self._fail, str(error))

    async def _load(self) -> None:
        loop = asyncio.get_running_loop()

        def load() -> None:
            for model, executor in self._backend.load():
                loop.call_soon_threadsafe(self._loaded, model, executor)

        try:
            await asyncio.to_thread(load)
            self._repository.require_default()
        except NothingServed as error:
            self._fail(str(error))
            return
        except Exception as error:
            log.exception("loading ended unexpectedly")
            self._fail(f"loading ended unexpectedly: {error!r}")
            return
        self._all_loaded = True
        self._announce()

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
        pause = 0.0
        while True:
            try:
                link, process = await self._start(worker)
            except OSError as error:  # no more processes, no more descriptors
                greeted, ended = False, f"could not be started ({error})"
            else:
                status = await process.wait()
                link.close()
                mark_process_dead(process.pid)  # type: ignore[no-untyped-call]
                greeted, ended = link.greeted, f"(process {process.pid}) ended with status {status}"
                if self._stopping.is_set():
                    if greeted and status:
                        self._failure = self._failure or f"worker {worker} {ended} while it was stopping"
                    return
            if self._stopping.is_set():
                return
            if not self._listening:  # the next one would end, too
                self._fail(f"worker {worker} {ended} before it listened; the reason is above")
                return
            pause = 0.0 if greeted else min(2 * pause or 1.0, LONGEST_PAUSE)
            log.error("worker %d %s: starting another%s", worker, ended, f" in {pause:.0f} s" if pause else "")
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), pause)
                return

    async def _start(self, worker: int) -> tuple[Link, Process]:
        """Raises OSError when the system has no room for another process."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        start = Start(
            worker,
            # decode threads are shared out
            self._settings.model_copy(
                update={"decode_threads": -(-self._settings.decode_threads // self._settings.workers)}
            ),
            self._unloaded,
            self._memory.layout,
            memory_fd=self._memory.fd,
            socket_fd=theirs.fileno(),
        )
        try:
            # not a pipe: a worker may be gone before all of it is written
            with theirs, os.fdopen(os.memfd_create("start"), "w+b") as stdin:
                pickle.dump(start, stdin)
                stdin.seek(0)
                process = await asyncio.create_subprocess_exec(
                    sys.executable,
                    *("-m", "service.workers.worker"),
                    stdin=stdin,
                    pass_fds=(start.socket_fd, start.memory_fd),
                    start_new_session=True,  # Ctrl-C in a terminal reaches this process alone, which passes it on
                )
        except OSError:
            ours.close()
            raise
        link = Link(
            ours,
            self._memory,
            worker,
            self._models,
            self._executors,
            on_hello=functools.partial(self._hello, worker),
        )
        self._links[worker], self._processes[worker] = link, process
        for news in self._news:
            link.tell(news)
        if self._stopping.is_set():  # while it was being started
            self._stop_worker(worker, signal.SIGINT)
        return link, process

    def _hello(self, worker: int) -> None:
        """A worker listens."""
        if self._stopping.is_set():  # it came up while the others were told
            self._links[worker].tell(Stop(signal.SIGINT))
        if worker in self._listening:
            log.info("worker %d (process %d) listens in its place", worker, self._processes[worker].pid)
            return
        self._listening.add(worker)
        if self._all_listen:
            host = f"[{self._settings.host}]" if ":" in self._settings.host else self._settings.host
            log.info("%d workers on http://%s:%d", self._settings.workers, host, self._settings.port)
            self._announce()

    @property
    def _all_listen(self) -> bool:
        return len(self._listening) == self._settings.workers

    def _announce(self) -> None:
        if self._all_loaded and self._all_listen and not self._stopping.is_set():
            log.info("ready: %s", ", ".join(model.name for model in self._models if model.state == "ready"))
