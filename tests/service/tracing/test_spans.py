"""Which requests are traced, and what their spans are, in this process."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterable, Mapping, Sequence

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from service.tracing import traces
from service.tracing.spans import MOST_PASSAGES, Spans, Traced
from service.tracing.traces import NO_MARK, Passage

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


class Tracing:
    """Spans that are kept here."""

    def __init__(self) -> None:
        self._exporter = InMemorySpanExporter()
        self.spans = Spans(SimpleSpanProcessor(self._exporter), "worker 7")

    @property
    def made(self) -> Sequence[ReadableSpan]:
        return self._exporter.get_finished_spans()

    def begin(self, headers: Mapping[str, Iterable[str]] | None = None) -> Traced | None:
        return self.spans.begin(lambda name: (headers or {}).get(name, ()), "POST", time.perf_counter())


@pytest.fixture
def tracing() -> Tracing:
    return Tracing()


def marked(trace: Traced) -> tuple[int, int]:
    return int(trace.ids["trace_id"], 16), int(trace.ids["span_id"], 16)


@pytest.mark.parametrize(
    ("parent", "follows"),
    [
        (f"00-{TRACE}-{PARENT}-01", True),
        (f"00-{TRACE}-{PARENT}-03", True),
        (f"cc-{TRACE}-{PARENT}-01-from-a-later-version", True),
        (f"00-{TRACE}-{PARENT}-01-too-long", False),
        (f"ff-{TRACE}-{PARENT}-00", False),
        (f"00-{'0' * 32}-{PARENT}-00", False),
        (f"00-{TRACE}-{'0' * 16}-00", False),
        (f"00-{TRACE.upper()}-{PARENT}-00", False),
        ("", False),
    ],
)
def test_a_valid_parent_is_followed(tracing: Tracing, parent: str, follows: bool) -> None:
    """And a trace begins here where there is none, whatever an invalid one says."""
    trace = tracing.begin({"traceparent": [parent]})
    assert trace is not None
    assert (trace.ids["trace_id"] == TRACE) is follows
    tracing.spans.end(trace, time.perf_counter(), 0.0, "POST /classify", {}, "", failed=False)
    (span,) = tracing.made
    assert (span.parent is not None) is follows
    assert not follows or f"{span.parent.span_id:016x}" == PARENT  # type: ignore[union-attr]


@pytest.mark.parametrize("flags", ["00", "02", "fe"])
def test_a_parent_that_is_not_sampled_is_followed_too(tracing: Tracing, flags: str) -> None:
    assert tracing.begin({"traceparent": [f"00-{TRACE}-{PARENT}-{flags}"]}) is None


def test_two_parents_are_none(tracing: Tracing) -> None:
    trace = tracing.begin({"traceparent": [f"00-{TRACE}-{PARENT}-00", f"00-{TRACE}-{PARENT}-01"]})
    assert trace is not None
    assert trace.ids["trace_id"] != TRACE


def test_a_sampler_that_drops_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "always_off")
    tracing = Tracing()
    assert tracing.begin() is None
    assert tracing.begin({"traceparent": [f"00-{TRACE}-{PARENT}-01"]}) is None


def test_the_environment_names_the_service(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_SERVICE_NAME", "shop")
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=test,service.instance.id=me")
    tracing = Tracing()
    trace = tracing.begin()
    assert trace is not None
    tracing.spans.end(trace, time.perf_counter(), 0.0, "POST", {}, "", failed=False)
    resource = tracing.made[0].resource.attributes
    assert resource["service.name"] == "shop"
    assert resource["deployment.environment.name"] == "test"
    assert resource["service.instance.id"] == "me"
    assert resource["resnet.process"] == "worker 7"
    assert resource["host.name"] == socket.gethostname()


def test_a_batch_links_every_traced_request_once(tracing: Tracing) -> None:
    first, second = tracing.begin(), tracing.begin()
    assert first is not None
    assert second is not None
    marks = [first.mark, NO_MARK, second.mark, first.mark]
    mark = tracing.spans.batch(marks, time.perf_counter(), 0.25, {"resnet.batch_size": 4}, failed=True)
    (span,) = tracing.made
    assert [(link.context.trace_id, link.context.span_id) for link in span.links] == [marked(first), marked(second)]
    assert span.parent is None
    assert span.end_time - span.start_time == pytest.approx(250_000_000, abs=2)  # type: ignore[operator]
    assert not span.status.is_ok
    assert traces.ids_of(mark)["trace_id"] == f"{span.context.trace_id:032x}"


def test_a_batch_without_a_traced_request_has_no_span(tracing: Tracing) -> None:
    assert tracing.spans.batch([NO_MARK] * 4, time.perf_counter(), 0.25, {}, failed=False) == NO_MARK
    assert not tracing.made


def test_spans_of_a_request_are_bounded(tracing: Tracing) -> None:
    trace = tracing.begin()
    assert trace is not None
    trace.passages += [Passage(number, 1.0, 2.0, 3.0, 9.0, 4.0, 4.0, 1) for number in range(MOST_PASSAGES + 10)]
    tracing.spans.end(trace, 0.0, 10.0, "POST /classify", {}, "", failed=False)
    assert len(tracing.made) == 4 * MOST_PASSAGES + 3
