"""What Prometheus sees: one registry per application, or counters shared by all processes of the service."""

from __future__ import annotations

import fcntl
import os
import threading
from collections import Counter as Tally
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Literal, get_args

from service.counter_files import FOLDER, locked
from service.runtime.build import this_build
from service.settings_buckets import SECONDS

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
    from prometheus_client.registry import Collector
    from prometheus_client.samples import Sample

Stage = Literal["decode", "queue", "inference", "total"]
STAGES: tuple[Stage, ...] = get_args(Stage)

INFO_LABELS = ("model", "version", "depth", "variant", "provider", "compute")

CONFIDENCE = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 1.0)
MOST_CLASSES = 100  # of a model whose predicted classes are counted: each is a series of its own
BATCH_SIZES = (1, 2, 4, 8, 16, 32, 64)


class Metrics:
    """The counters, gauges and histograms of the service."""

    requests: Counter
    images: Counter
    partial: Counter
    stages: Histogram
    batch_size: Histogram
    http: Histogram
    in_flight: Gauge
    grpc: Histogram
    grpc_in_flight: Gauge
    in_service: Gauge
    running: Gauge
    confidence: Histogram
    predicted: Counter
    request_bytes: Gauge
    key_requests: Counter
    connections: Gauge
    connections_closed: Counter
    not_decoded: Counter
    worker_restarts: Counter

    def __init__(self, buckets: Sequence[float] = SECONDS, engine_pid: Callable[[], int] = os.getppid) -> None:
        """
        Args:
            buckets: the upper edges of those of durations, in seconds, ascending; the same in all processes.
            engine_pid: the engine process, whose memory and CPU `process_` shows when processes count together.
        """
        from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
        from prometheus_client.process_collector import ProcessCollector

        from service.shared_exemplars import Exemplars, SharedHistogram

        self._looked_up: list[Collector] = []
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        # One for all readings: a second look at the clock could find another start of the process.
        self._engine = ProcessCollector(pid=engine_pid, registry=None)
        counter, gauge = partial(Counter, registry=self.registry), partial(Gauge, registry=self.registry)
        histogram: Callable[..., Histogram] = partial(Histogram, registry=self.registry)
        if FOLDER in os.environ:
            exemplars = Exemplars(os.environ[FOLDER])
            histogram = partial(SharedHistogram, exemplars=exemplars, registry=self.registry)
        build = this_build()
        gauge("resnet_build_info", "1, with the build that runs", list(build._fields), multiprocess_mode="max").labels(
            **build._replace(commit=build.commit or "")._asdict()
        ).set(1)
        self.requests = counter(
            "resnet_requests",
            "Requests with images to compute, by model, HTTP status and problem (empty for none)",
            ["model", "status", "problem"],
        )
        self.http = histogram(
            "resnet_http_request_seconds",
            "Seconds from the head of a request to the end of its answer, by first part of the path and HTTP status",
            ["handler", "status"],
            buckets=buckets,
        )
        self.in_flight = gauge(
            "resnet_http_requests_in_flight", "Requests that have no complete answer yet", multiprocess_mode="livesum"
        )
        self.grpc = histogram(
            "resnet_grpc_request_seconds",
            "Seconds from the head of a gRPC call to the end of its answer, by method and gRPC status code",
            ["method", "code"],
            buckets=buckets,
        )
        self.grpc_in_flight = gauge(
            "resnet_grpc_requests_in_flight",
            "gRPC calls that have no complete answer yet",
            multiprocess_mode="livesum",
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
            buckets=buckets,
        )
        self.batch_size = histogram("resnet_batch_size", "Images in a batch", ["model"], buckets=BATCH_SIZES)
        self.in_service = gauge(
            "resnet_images_in_service", "Images from admission to answer", ["model"], multiprocess_mode="livesum"
        )
        self.running = gauge(
            "resnet_images_running", "Images in a batch that runs", ["model"], multiprocess_mode="livesum"
        )
        self.confidence = histogram(
            "resnet_confidence", "Probability of the most probable class, by image", ["model"], buckets=CONFIDENCE
        )
        self.predicted = counter(
            "resnet_predicted_classes",
            f"Answered classes, of models with at most {MOST_CLASSES} classes: the most probable one, if it is not "
            "rejected; of multi-label models, every one that is present",
            ["model", "class"],
        )
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
        self.worker_restarts = counter("resnet_worker_restarts", "Workers that ended by themselves and were replaced")
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

    def look_up(self, collector: Collector) -> None:
        """Also shows what this finds at each reading, in the process that is asked: nothing is added up."""
        self._looked_up.append(collector)
        self.registry.register(collector)

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

    def text(self, accept: str = "") -> bytes:
        """All metrics. With workers: the sum of all processes, and `process_` of the engine's.

        Args:
            accept: a header of the request. OpenMetrics, if it asks for that, has exemplars; else Prometheus' format.
        """
        from prometheus_client.exposition import choose_encoder

        encode, _ = choose_encoder(accept)
        with self._complete() as registry:
            return encode(registry)

    @staticmethod
    def media_type(accept: str) -> str:
        """Of `text`."""
        from prometheus_client.exposition import choose_encoder

        return choose_encoder(accept)[1]

    def samples(self, *names: str) -> list[Sample]:
        """The samples of these metrics. With workers: the sums of all processes."""
        with self._complete() as registry:
            return [sample for metric in registry.collect() if metric.name in names for sample in metric.samples]

    @contextmanager
    def _complete(self) -> Iterator[CollectorRegistry]:
        """What there is to read: this registry, or with workers one over all processes."""
        from prometheus_client import CollectorRegistry
        from prometheus_client.multiprocess import MultiProcessCollector

        if FOLDER not in os.environ:
            yield self.registry
            return
        from service.shared_exemplars import WithExemplars

        together = CollectorRegistry()
        MultiProcessCollector(together)  # type: ignore[no-untyped-call]
        for collector in (self._engine, *self._looked_up):
            together.register(collector)
        with locked(os.environ[FOLDER], fcntl.LOCK_SH):
            yield WithExemplars(together)
