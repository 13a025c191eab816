"""What Prometheus sees. One registry per application: nothing is global, so tests can build as many as they like."""

from __future__ import annotations

import os
from typing import Literal

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.process_collector import ProcessCollector

Stage = Literal["decode", "queue", "inference", "total"]

# 1 ms to 16 s, doubling: from a ResNet-18 on a GPU to a ResNet-152 on one core under load.
SECONDS = tuple(0.001 * 2**power for power in range(15))
BATCH_SIZES = (1, 2, 4, 8, 16, 32, 64)


class Metrics:
    """The counters and histograms, and the text of `/metrics`."""

    def __init__(self) -> None:
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
        """The Prometheus text exposition format. With workers, of all processes; `process_` of the engine's."""
        if "PROMETHEUS_MULTIPROC_DIR" not in os.environ:
            return generate_latest(self.registry)
        together = CollectorRegistry()
        MultiProcessCollector(together)  # type: ignore[no-untyped-call]
        ProcessCollector(pid=os.getppid, registry=together)
        return generate_latest(together)
