"""A worker process: HTTP and decoding. Started by `child`, never by hand."""

from __future__ import annotations

import functools
import logging
import os
import pickle
import signal
import socket
import sys

from service import counter_files, logs
from service.app import create_app
from service.backend import Work
from service.hard_end import last_words
from service.keys import KeysError
from service.metrics import Metrics
from service.server import Server
from service.sockets import bind
from service.tracing.setup import open_spans
from service.watchdog import end_process
from service.workers.memory import SharedMemory
from service.workers.messages import Start
from service.workers.worker_side import ENGINE_PROCESS, RemoteBackend

log = logging.getLogger("service")

# What is the same in all workers is logged once, by the engine process.
LOGGED_ONCE = "uvicorn"


def main() -> None:
    start: Start = pickle.load(sys.stdin.buffer)
    settings = start.settings
    process = f"worker {start.worker}"
    logs.configure(settings.log_level, settings.log_format, access=settings.access_log, process=process)
    logging.getLogger(LOGGED_ONCE).setLevel(max(logging.WARNING, logging.getLogger().level))
    try:
        counter_files.reserve_counters()
    except counter_files.NoFolder as error:
        log.error("%s", error)
        sys.exit(1)
    backend = RemoteBackend(
        socket.socket(fileno=start.socket_fd),
        SharedMemory(start.layout, start.memory_fd),
        start.worker,
        on_stop=lambda number: server.stop(number),
        on_lost=_exit_without_engine,
    )
    counts = Metrics(settings.metrics_buckets)
    spans = open_spans(process)
    try:
        server = Server(
            start.settings,
            counts,
            lambda this: create_app(
                start.settings,
                start.repository,
                backend,
                metrics=counts,
                spans=spans,
                serving=lambda: not this.draining and backend.siblings_ready,
                closing=this.closing,
                opens_admin_port=False,
                before_listening=backend.catch_up,
                on_fatal=lambda error: os._exit(1),  # it has been logged; the supervisor starts another
                on_hang=functools.partial(_end, start.engine_pid),
            ),
            on_listening=backend.hello,
            # A signal to all processes of the service would count twice here, and a second one cuts requests off.
            heeds_signals=False,
        )
    except KeysError as error:  # broken since the start; the siblings have the keys of before
        log.error("%s", error)
        sys.exit(1)
    server.run(sockets=bind(start.settings.host, start.settings.port))
    if spans:
        spans.close()


def _exit_without_engine() -> None:
    """Nothing can be finished any more. Connections break, and a load balancer sends their requests elsewhere."""
    last_words(log, logging.ERROR, "process %d exits: the engine process has gone", os.getpid())
    os._exit(1)


def _end(engine_pid: int, work: Work) -> None:
    """On the watchdog's thread. A stopped engine process cannot end itself."""
    if work.part == ENGINE_PROCESS and os.getppid() == engine_pid:  # else it has ended, and the number may be another's
        last_words(log, logging.ERROR, "the engine process %d is killed", engine_pid)
        os.kill(engine_pid, signal.SIGKILL)
    end_process(work)


if __name__ == "__main__":
    main()
