"""Spans for OpenTelemetry: of requests, of what they went through, and of batches.

POST /classify ─┬─ receive    head and body of the request
                ├─ queue      for a decode thread           ┐
                ├─ decode                                   │ of each image
                ├─ queue      for the engine                │
                ├─ run        the image's batch ───► batch  ┘ (linked both ways)
                └─ respond
"""

from __future__ import annotations

import re
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

from opentelemetry.context import Context
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.id_generator import IdGenerator, RandomIdGenerator
from opentelemetry.sdk.trace.sampling import ALWAYS_ON, Decision, ParentBased
from opentelemetry.trace import (
    INVALID_SPAN_CONTEXT,
    Link,
    Span,
    SpanContext,
    SpanKind,
    StatusCode,
    TraceFlags,
    get_current_span,
    set_span_in_context,
)
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from service.runtime.build import this_build
from service.tracing.traces import NO_MARK, Passage, Trace

Attributes = Mapping[str, str | int | bool]

SERVICE = "resnet-service"
PARENT, STATE = "traceparent", "tracestate"
MOST_PASSAGES = 32  # of a request's images, that become spans
FLUSH_S = 3.0  # for what is not exported yet, when the process ends: within `hard_end.GRACE_S`

# A parent that is valid and not sampled. To have it parsed takes longer than all else that an unsampled request costs.
UNSAMPLED = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f][02468ace](-.*)?")
NOWHERE = Context()  # without a parent


@dataclass(slots=True, kw_only=True)
class Traced(Trace):
    """A request that is traced, with its server span.

    Attributes:
        clock: nanoseconds since 1970 at the zero of `time.perf_counter`, for all its spans.
    """

    span: Span
    clock: int

    @property
    def response(self) -> str:
        """The value of the header `traces.RESPONSE`."""
        ids = self.ids
        return f"00-{ids['trace_id']}-{ids['span_id']}-{self.span.get_span_context().trace_flags:02x}"


class _Ids(RandomIdGenerator):
    """Begins a trace with the id by which it was chosen. Used on one thread."""

    def __init__(self) -> None:
        self.chosen = 0

    def generate_trace_id(self) -> int:
        return self.chosen


class Spans:
    """Decides which requests are traced, and makes their spans. `begin` and `end` belong to one event loop."""

    def __init__(self, processor: SpanProcessor, process: str = "") -> None:
        """
        Args:
            processor: gets the spans.
            process: names this process among several.
        """
        self._processor = processor
        known = {
            "service.name": SERVICE,
            "service.version": this_build().version,
            "service.instance.id": str(uuid.uuid4()),
            "host.name": socket.gethostname(),  # in Kubernetes the pod
        }
        if process:
            known["resnet.process"] = process
        # What the environment says comes first: OTEL_SERVICE_NAME, OTEL_RESOURCE_ATTRIBUTES.
        found = Resource.create()
        given = {
            name: value for name, value in found.attributes.items() if not str(value).startswith("unknown_service")
        }
        resource = found.merge(Resource({**known, **given}))
        by_environment = TracerProvider(resource=resource, shutdown_on_exit=False)
        self._sampler = by_environment.sampler
        self._follows_parents = isinstance(self._sampler, ParentBased)
        self._random = by_environment.id_generator
        self._ids = _Ids()
        self._propagator = TraceContextTextMapPropagator()
        # The sampler has been asked before there is a span: one that is not sampled would cost as much again.
        self._tracer, self._batches = (
            _provider(resource, processor, ids).get_tracer("service", this_build().version)
            for ids in (self._ids, self._random)
        )

    def begin(self, values: Callable[[str], Iterable[str]], name: str, started: float) -> Traced | None:
        """A request begins: whether it is traced, as its caller or the sampler decides.

        Args:
            values: of a header of the request.
            name: of the span, until more is known.
            started: as of `time.perf_counter`.
        """
        parent, caller = NOWHERE, INVALID_SPAN_CONTEXT
        if given := ",".join(values(PARENT)):
            if self._follows_parents and UNSAMPLED.fullmatch(given):
                return None
            carrier = {PARENT: given, STATE: ",".join(values(STATE))}
            parent = self._propagator.extract(carrier, NOWHERE)
            caller = get_current_span(parent).get_span_context()
        trace_id = caller.trace_id if caller.is_valid else self._random.generate_trace_id()
        chosen = self._sampler.should_sample(parent, trace_id, name, SpanKind.SERVER)
        if chosen.decision is not Decision.RECORD_AND_SAMPLE:
            return None
        self._ids.chosen = trace_id
        clock = _clock()
        span = self._tracer.start_span(name, parent, SpanKind.SERVER, start_time=_at(clock, started))
        return Traced(_mark(span.get_span_context()), span=span, clock=clock)

    def end(
        self,
        trace: Traced,
        started: float,
        took: float,
        name: str,
        attributes: Attributes,
        error: str,
        *,
        failed: bool,
    ) -> None:
        """The request has its answer: makes its spans.

        Args:
            started: as of `time.perf_counter`.
            took: seconds.
            error: what kind, such as a problem's name; empty if there is none.
            failed: whether the fault is the service's.
        """
        span = trace.span
        if passages := trace.passages:
            self._child(trace, "receive", started, min(passage.arrived for passage in passages))
            for passage in passages[:MOST_PASSAGES]:
                self._passed(trace, passage)
            self._child(trace, "respond", max(passage.ended for passage in passages), started + took)
        span.update_name(name)
        span.set_attributes(attributes)
        if error:
            span.set_attribute("error.type", error)
        if failed:
            span.set_status(StatusCode.ERROR)
        span.end(_at(trace.clock, started + took))

    def batch(
        self, marks: Sequence[bytes], started: float, ran: float, attributes: Attributes, *, failed: bool
    ) -> bytes:
        """A batch has run: makes its span, in a trace of its own, if one of its images belongs to a request that is
        traced.
        From any thread.

        Args:
            marks: of its images' requests.
            started: as of `time.perf_counter`.
            ran: seconds.

        Returns:
            The mark of the batch's span.
        """
        traced = dict.fromkeys(mark for mark in marks if mark != NO_MARK)
        if not traced:
            return NO_MARK
        clock = _clock()
        links = [Link(_context(mark)) for mark in traced]
        span = self._batches.start_span(
            "batch", NOWHERE, attributes=attributes, links=links, start_time=_at(clock, started)
        )
        if failed:
            span.set_status(StatusCode.ERROR)
        span.end(_at(clock, started + ran))
        return _mark(span.get_span_context())

    def close(self) -> None:
        """Exports what has not been exported yet, as far as the receiver takes it within `FLUSH_S`."""
        flushing = threading.Thread(target=self._processor.shutdown, name="flush", daemon=True)
        with suppress(RuntimeError):  # no thread is left
            flushing.start()
            flushing.join(FLUSH_S)

    def _passed(self, trace: Traced, passage: Passage) -> None:
        """The spans of one image."""
        arrived, decoding, decoded = passage.arrived, passage.decoding, passage.decoded
        image: dict[str, str | int] = {"resnet.image": passage.number}
        if decoding:
            self._child(trace, "queue", arrived, decoding, {**image, "resnet.queue": "decode"})
        if decoded > decoding:
            self._child(trace, "decode", decoding, decoded, image)
        if passage.batch_size:
            batch = _context(passage.batch)
            links = [Link(batch)] if batch.is_valid else []
            size = {**image, "resnet.batch_size": passage.batch_size}
            self._child(trace, "queue", decoded, passage.started, {**image, "resnet.queue": "engine"})
            self._child(trace, "run", passage.started, passage.started + passage.ran, size, links)
        elif passage.problem:
            failed = {**image, "resnet.problem": passage.problem}
            self._child(trace, "unanswered", max(arrived, decoding, decoded), passage.ended, failed)
        else:
            self._child(trace, "draw", decoded, passage.ended, image)

    def _child(
        self,
        trace: Traced,
        name: str,
        started: float,
        ended: float,
        attributes: Attributes | None = None,
        links: Sequence[Link] = (),
    ) -> None:
        start = _at(trace.clock, started)
        inside = set_span_in_context(trace.span, NOWHERE)
        self._tracer.start_span(name, inside, attributes=attributes, links=links, start_time=start).end(
            _at(trace.clock, ended)
        )


def _clock() -> int:
    """As `Traced.clock`. Taken anew each time: the time of day may be set."""
    return time.time_ns() - time.perf_counter_ns()


def _at(clock: int, moment: float) -> int:
    """Nanoseconds since 1970, of a moment as of `time.perf_counter`."""
    return clock + round(1e9 * moment)


def _mark(context: SpanContext) -> bytes:
    return context.trace_id.to_bytes(16) + context.span_id.to_bytes(8)


def _context(mark: bytes) -> SpanContext:
    """Of a span that was sampled; not valid for `NO_MARK`."""
    trace_id, span_id = int.from_bytes(mark[:16]), int.from_bytes(mark[16:])
    return SpanContext(trace_id, span_id, is_remote=True, trace_flags=TraceFlags(TraceFlags.SAMPLED))


def _provider(resource: Resource, processor: SpanProcessor, ids: IdGenerator) -> TracerProvider:
    """Makes every span that is asked for."""
    provider = TracerProvider(ALWAYS_ON, resource, shutdown_on_exit=False, id_generator=ids)
    provider.add_span_processor(processor)
    return provider
