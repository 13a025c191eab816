"""What Prometheus sees: one registry per application, or counters shared by all processes of the service.

prometheus_client decides when it is imported whether to count for one process or for several. Only this module imports
it, and not before the first `Metrics`: `count_alone` and `count_together` come first.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal, get_args

if TYPE_CHECKING:
    from prometheus_client import Counter, Gauge, Histogram

Stage = Literal["decode", "queue", "inference", "total"]
STAGES: tuple[Stage, ...] = get_args(Stage)

# 1 ms to 16 s, doubling: from a ResNet-18 on a GPU to a ResNet-152 on one core under load.
SECONDS = tuple(0.001 * 2**power for power in range(15))
BATCH_SIZES = (1, 2, 4, 8, 16, 32, 64)

# prometheus_client's name for the folder in which several processes count; it heeds it in lower case, too.
FOLDER = "PROMETHEUS_MULTIPROC_DIR"


class NoFolder(Exception):
    """There is no folder for temporary files; the message names the remedy."""


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
        yield


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
    body_bytes: Gauge
    connections: Gauge
    connections_closed: Counter

    def __init__(self) -> None:
        from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram
        from prometheus_client.process_collector import ProcessCollector

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
        self.body_bytes = Gauge(
            "resnet_body_bytes",
            "Bytes that requests in the service have reserved for their bodies",
            multiprocess_mode="livesum",
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
            ["model", "version", "depth", "variant", "provider", "compute"],
            multiprocess_mode="max",
            registry=self.registry,
        )

    def model_is_ready(self, **labels: str) -> None:
        """`labels` are those of `resnet_model_info`."""
        self._info.labels(**labels).set(1)

    def text(self) -> bytes:
        """The Prometheus text format. With workers: the sum of all processes, and `process_` of the engine's."""
        from prometheus_client import CollectorRegistry, generate_latest
        from prometheus_client.multiprocess import MultiProcessCollector
        from prometheus_client.process_collector import ProcessCollector

        if FOLDER not in os.environ:
            return generate_latest(self.registry)
        together = CollectorRegistry()
        MultiProcessCollector(together)  # type: ignore[no-untyped-call]
        ProcessCollector(pid=os.getppid, registry=together)
        return generate_latest(together)
