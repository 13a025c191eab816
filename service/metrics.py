"""What Prometheus sees: one registry per application, or counters shared by all processes of the service.

prometheus_client decides when it is imported whether to count for one process or for several. Only this module imports
it, and not before the first `Metrics`: `count_alone` and `count_together` come first.
"""

from __future__ import annotations

import fcntl
import logging
import os
import tempfile
import threading
from collections import Counter as Tally
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

from service.runtime.build import this_build

if TYPE_CHECKING:
    from prometheus_client import Counter, Gauge, Histogram

log = logging.getLogger(__name__)

Stage = Literal["decode", "queue", "inference", "total"]
STAGES: tuple[Stage, ...] = get_args(Stage)

INFO_LABELS = ("model", "version", "depth", "variant", "provider", "compute")

# 1 ms to 16 s, doubling: from a ResNet-18 on a GPU to a ResNet-152 on one core under load.
SECONDS = tuple(0.001 * 2**power for power in range(15))
BATCH_SIZES = (1, 2, 4, 8, 16, 32, 64)

# prometheus_client's name for the folder in which several processes count; it heeds it in lower case, too.
FOLDER = "PROMETHEUS_MULTIPROC_DIR"


# Where each process counts, by prometheus_client's names for the kinds of metrics, and the room that is reserved for
# each: for 25 models and 300 series of a kind. The files are mapped into memory, and to write where a full disk has no
# room for them would end the process. Beyond that room a file doubles, unreserved.
RESERVED = {"counter": 2**16, "histogram": 2**19, "gauge_livesum": 2**16, "gauge_max": 2**16}
SUMMED = ("counter", "histogram")  # kinds that outlive their process, in one file for all that have ended


class NoFolder(Exception):
    """There is no folder for temporary files, or no room in it; the message names the remedy."""


def count_alone() -> None:
    """This process counts for itself, whatever the environment of its caller says."""
    for name in (FOLDER, FOLDER.lower()):
        os.environ.pop(name, None)


@contextmanager
def count_together() -> Iterator[None]:
    """This process and those that it starts count together. Raises NoFolder."""
    try:
        temporary = tempfile.TemporaryDirectory(prefix="resnet-service-")
    except OSError as error:
        raise NoFolder(f"there is no folder for the workers' counters: {error}; set TMPDIR") from error
    with temporary as folder:
        os.environ[FOLDER] = folder
        reserve_counters()
        yield


def reserve_counters() -> None:
    """Takes the room on the disk for all that this process will count; nothing if it counts alone. Raises NoFolder."""
    folder = os.environ.get(FOLDER)
    if folder is None:
        return
    try:
        for kind, size in RESERVED.items():
            with _file(folder, kind, os.getpid()).open("ab") as file:
                os.posix_fallocate(file.fileno(), 0, size)
    except OSError as error:
        for kind in RESERVED:  # an empty file is not one of counters
            _file(folder, kind, os.getpid()).unlink(missing_ok=True)
        needed = sum(RESERVED.values())
        raise NoFolder(f"{folder} has no room for {needed} bytes of counters: {error}; set TMPDIR") from error


_ended: set[int] = set()  # processes whose files are still there


def forget_process(pid: int) -> None:
    """Drops the gauges of a process that has ended, and adds what it counted to the sums of those that ended before it.

    While `text` reads the files, or if the disk has no room for the new sums, they stay until the next process ends.
    """
    from prometheus_client.multiprocess import mark_process_dead

    folder = os.environ[FOLDER]
    mark_process_dead(pid)  # type: ignore[no-untyped-call]
    _ended.add(pid)
    try:
        with _locked(folder, fcntl.LOCK_EX | fcntl.LOCK_NB):
            for kind in SUMMED:
                _add_up(folder, kind)
            for ended in _ended:
                for kind in RESERVED:
                    _file(folder, kind, ended).unlink(missing_ok=True)
            _ended.clear()
    except BlockingIOError:
        pass
    except OSError as error:  # also if something has cleaned away the folder
        log.warning("the counters of workers that have ended stay in their files: %s", error)


def _add_up(folder: str, kind: str) -> None:
    """Moves what processes have counted that have ended into one file. Raises OSError; nothing is lost then."""
    from prometheus_client.mmap_dict import MmapedDict

    total = _file(folder, kind, "ended")
    files = [file for file in (total, *(_file(folder, kind, pid) for pid in _ended)) if file.exists()]
    sums: dict[str, float] = defaultdict(float)
    for file in files:
        for key, value, *_ in MmapedDict.read_all_values_from_file(file):  # type: ignore[no-untyped-call]
            sums[key] += value
    new = total.with_suffix(".new")
    try:
        with new.open("wb") as empty:  # with room for all, so that it need not grow
            os.posix_fallocate(empty.fileno(), 0, 8 + sum(len(key.encode()) + 32 for key in sums))
    except OSError:
        new.unlink(missing_ok=True)
        raise
    written = MmapedDict(new)  # type: ignore[no-untyped-call]
    for key, value in sums.items():
        written.write_value(key, value, 0.0)  # type: ignore[no-untyped-call]
    written.close()  # type: ignore[no-untyped-call]
    new.replace(total)
    for file in files:
        if file != total:
            file.unlink()


def _file(folder: str, kind: str, process: int | str) -> Path:
    return Path(folder) / f"{kind}_{process}.db"


@contextmanager
def _locked(folder: str, how: int) -> Iterator[None]:
    """Holds a lock on the files of all processes: they are read as they were before a process was forgotten, or after.

    Raises:
        BlockingIOError: another process holds it, and `how` says not to wait.
    """
    descriptor = os.open(folder, os.O_RDONLY)  # a file of its own would need room on the disk
    try:
        fcntl.flock(descriptor, how)
        yield
    finally:
        os.close(descriptor)


class Metrics:
    """The counters, gauges and histograms of the service."""

    requests: Counter
    images: Counter
    partial: Counter
    stages: Histogram
    batch_size: Histogram
    http: Histogram
    in_flight: Gauge
    queue: Gauge
    request_bytes: Gauge
    key_requests: Counter
    connections: Gauge
    connections_closed: Counter
    not_decoded: Counter

    def __init__(self, engine_pid: Callable[[], int] = os.getppid) -> None:
        """
        Args:
            engine_pid: the engine process, whose memory and CPU `process_` shows when processes count together.
        """
        from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram
        from prometheus_client.process_collector import ProcessCollector

        self._engine_pid = engine_pid
        self.content_type = CONTENT_TYPE_LATEST
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        counter, gauge = partial(Counter, registry=self.registry), partial(Gauge, registry=self.registry)
        histogram = partial(Histogram, registry=self.registry)
        build = this_build()
        gauge("resnet_build_info", "1, with the build that runs", list(build._fields), multiprocess_mode="max").labels(
            **build._replace(commit=build.commit or "")._asdict()
        ).set(1)
        self.requests = counter(
            "resnet_requests", "Requests to /classify, by model and HTTP status", ["model", "status"]
        )
        self.http = histogram(
            "resnet_http_request_seconds",
            "Seconds from the head of a request to the end of its answer, by first part of the path and HTTP status",
            ["handler", "status"],
            buckets=SECONDS,
        )
        self.in_flight = gauge(
            "resnet_http_requests_in_flight", "Requests that have no complete answer yet", multiprocess_mode="livesum"
        )
        self.images = counter("resnet_images", "Images, by model and outcome (ok or the problem)", ["model", "outcome"])
        self.partial = counter(
            "resnet_partial_answers", "Answers with status 200 in which the service failed on some images", ["model"]
        )
        self.not_decoded = counter(
            "resnet_jpegs_not_decoded", "JPEGs that the GPU could not decode, so the processor did, by model", ["model"]
        )
        self.stages = histogram(
            "resnet_stage_seconds",
            "Seconds an image spends: decode (on a core), queue (waiting), inference (its batch), total",
            ["model", "stage"],
            buckets=SECONDS,
        )
        self.batch_size = histogram("resnet_batch_size", "Images in a batch", ["model"], buckets=BATCH_SIZES)
        self.queue = gauge("resnet_queue_images", "Images in the service now", ["model"], multiprocess_mode="livesum")
        self.request_bytes = gauge(
            "resnet_request_bytes",
            "Bytes that requests in the service hold for bodies and pixels",
            multiprocess_mode="livesum",
        )
        self.key_requests = counter(
            "resnet_key_requests", "Requests that need an API key, by the key's name and HTTP status", ["key", "status"]
        )
        self.connections = gauge("resnet_connections", "Open connections", multiprocess_mode="livesum")
        self.connections_closed = counter(
            "resnet_connections_closed",
            "Connections that the server closed because of their client or for room, by reason",
            ["reason"],
        )
        self._states: set[tuple[str, str, str]] = set()  # what `resnet_model_state` shows
        self._state = gauge(
            "resnet_model_state",
            "1 for the state of each published version that shall answer: loading, ready or failed",
            ["model", "version", "state"],
            multiprocess_mode="max",
        )
        self._ready: Tally[tuple[str, ...]] = Tally()  # models by what `resnet_model_info` says of them
        self._ready_lock = threading.Lock()
        self._info = gauge(
            "resnet_model_info", "1 while a model is ready, with what it runs on", INFO_LABELS, multiprocess_mode="max"
        )

    def show_states(self, states: Iterable[tuple[str, str, str]]) -> None:
        """Replaces what `resnet_model_state` shows: model, version and state of each version. On the event loop."""
        found = set(states)
        for values in self._states - found:
            self._take_away(self._state, values)
        for values in found - self._states:
            self._state.labels(*values).set(1)
        self._states = found

    def _take_away(self, gauge: Gauge, values: tuple[str, ...]) -> None:
        if FOLDER in os.environ:  # a series in a file cannot be removed
            gauge.labels(*values).set(0)
        else:
            gauge.remove(*values)

    def model_is_ready(self, **labels: str) -> None:
        """`labels` are those of `resnet_model_info`. Models may share them: a version and its replacement."""
        values = tuple(labels[name] for name in INFO_LABELS)
        with self._ready_lock:
            self._ready[values] += 1
            self._info.labels(*values).set(1)

    def model_is_gone(self, **labels: str) -> None:
        """The opposite of `model_is_ready`."""
        values = tuple(labels[name] for name in INFO_LABELS)
        with self._ready_lock:
            self._ready[values] -= 1
            if not self._ready[values]:
                self._take_away(self._info, values)

    def text(self) -> bytes:
        """The Prometheus text format. With workers: the sum of all processes, and `process_` of the engine's."""
        from prometheus_client import CollectorRegistry, generate_latest
        from prometheus_client.multiprocess import MultiProcessCollector
        from prometheus_client.process_collector import ProcessCollector

        if FOLDER not in os.environ:
            return generate_latest(self.registry)
        together = CollectorRegistry()
        MultiProcessCollector(together)  # type: ignore[no-untyped-call]
        ProcessCollector(pid=self._engine_pid, registry=together)
        with _locked(os.environ[FOLDER], fcntl.LOCK_SH):
            return generate_latest(together)
