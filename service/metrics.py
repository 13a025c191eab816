"""What Prometheus sees: one registry per application, or counters shared by all processes of the service.

prometheus_client decides when it is imported whether to count for one process or for several. Only this module imports
it, and not before the first `Metrics`: `count_alone` and `count_together` come first.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

if TYPE_CHECKING:
    from prometheus_client import Counter, Gauge, Histogram

Stage = Literal["decode", "queue", "inference", "total"]
STAGES: tuple[Stage, ...] = get_args(Stage)

INFO_LABELS = ("model", "version", "depth", "variant", "provider", "compute")

# 1 ms to 16 s, doubling: from a ResNet-18 on a GPU to a ResNet-152 on one core under load.
SECONDS = tuple(0.001 * 2**power for power in range(15))
BATCH_SIZES = (1, 2, 4, 8, 16, 32, 64)

# prometheus_client's name for the folder in which several processes count; it heeds it in lower case, too.
FOLDER = "PROMETHEUS_MULTIPROC_DIR"


# Where each process counts, by prometheus_client's names for the kinds of metrics, and the room for each: some thousand
# series. The files are mapped into memory, and to write where a full disk has no room for them would end the process.
COUNTER_FILES = ("counter", "histogram", "gauge_livesum", "gauge_max")
COUNTER_BYTES = 2**19


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
        for kind in COUNTER_FILES:
            with (Path(folder) / f"{kind}_{os.getpid()}.db").open("ab") as file:
                os.posix_fallocate(file.fileno(), 0, COUNTER_BYTES)
    except OSError as error:
        needed = len(COUNTER_FILES) * COUNTER_BYTES
        raise NoFolder(f"{folder} has no room for {needed} bytes of counters: {error}; set TMPDIR") from error


def forget_process(pid: int) -> None:
    """Drops the gauges of a process that has ended."""
    from prometheus_client.multiprocess import mark_process_dead

    mark_process_dead(pid)  # type: ignore[no-untyped-call]


class Metrics:
    """The counters, gauges and histograms of the service."""

    requests: Counter
    images: Counter
    stages: Histogram
    batch_size: Histogram
    queue: Gauge
    request_bytes: Gauge
    key_requests: Counter
    connections: Gauge
    connections_closed: Counter

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
        self.requests = Counter(
            "resnet_requests",
            "Requests to /classify, by model and HTTP status",
            ["model", "status"],
            registry=self.registry,
        )
        self.images = Counter(
            "resnet_images",
            "Images, by model and outcome (ok or the problem)",
            ["model", "outcome"],
            registry=self.registry,
        )
        self.stages = Histogram(
            "resnet_stage_seconds",
            "Seconds an image spends: decode (on a core), queue (waiting), inference (its batch), total",
            ["model", "stage"],
            buckets=SECONDS,
            registry=self.registry,
        )
        self.batch_size = Histogram(
            "resnet_batch_size", "Images in a batch", ["model"], buckets=BATCH_SIZES, registry=self.registry
        )
        self.queue = Gauge(
            "resnet_queue_images",
            "Images in the service now",
            ["model"],
            multiprocess_mode="livesum",
            registry=self.registry,
        )
        self.request_bytes = Gauge(
            "resnet_request_bytes",
            "Bytes that requests in the service hold for bodies and pixels",
            multiprocess_mode="livesum",
            registry=self.registry,
        )
        self.key_requests = Counter(
            "resnet_key_requests",
            "Requests that need an API key, by the key's name and HTTP status",
            ["key", "status"],
            registry=self.registry,
        )
        self.connections = Gauge(
            "resnet_connections", "Open connections", multiprocess_mode="livesum", registry=self.registry
        )
        self.connections_closed = Counter(
            "resnet_connections_closed",
            "Connections that the server closed because of their client or for room, by reason",
            ["reason"],
            registry=self.registry,
        )
        self._info = Gauge(
            "resnet_model_info",
            "1 for each model that is ready, with what it runs on",
            INFO_LABELS,
            multiprocess_mode="max",
            registry=self.registry,
        )

    def model_is_ready(self, **labels: str) -> None:
        """`labels` are those of `resnet_model_info`."""
        self._info.labels(**labels).set(1)

    def model_is_gone(self, **labels: str) -> None:
        self._info.remove(*(labels[name] for name in INFO_LABELS))

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
        return generate_latest(together)
