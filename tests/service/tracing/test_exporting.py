"""What the log says of exports that fail."""

from __future__ import annotations

import logging

import pytest
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SpanExportResult

from service.tracing.exporting import Reporting
from tests.support.otlp import Receiver


@pytest.fixture
def span() -> ReadableSpan:
    span = TracerProvider(shutdown_on_exit=False).get_tracer("test").start_span("some span")
    span.end()
    assert isinstance(span, ReadableSpan)
    return span


def test_a_failure_is_said_once_and_its_end_too(span: ReadableSpan, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="service")
    with Receiver() as receiver:
        exporter = Reporting(OTLPSpanExporter(f"{receiver.endpoint}/v1/traces"))
        receiver.status = 403
        assert [exporter.export([span, span]) for _ in range(3)] == [SpanExportResult.FAILURE] * 3
        receiver.status = 200
        assert [exporter.export([span]) for _ in range(2)] == [SpanExportResult.SUCCESS] * 2
        exporter.shutdown()
        assert len(receiver.spans) == 2
    warning, info = caplog.records
    assert warning.levelno == logging.WARNING
    assert "Failed to export spans batch code: 403" in warning.getMessage()
    assert info.getMessage() == "traces are exported again; at least 6 spans are lost"


def test_only_a_full_queue_is_no_news_while_nothing_is_exported(
    span: ReadableSpan, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue_log = logging.getLogger("opentelemetry.sdk._shared_internal")
    monkeypatch.setattr(queue_log, "filters", [])  # OpenTelemetry's takes what it has heard within a minute
    with Receiver() as receiver:
        exporter = Reporting(OTLPSpanExporter(f"{receiver.endpoint}/v1/traces"))
        receiver.status = 403
        exporter.export([span])
        caplog.clear()
        queue_log.warning("Queue full, dropping %s.", "Span")
        queue_log.error("Exception while exporting %s.", "Span")
        exporter.shutdown()
        queue_log.warning("Queue full, dropping %s.", "Span")
    assert [record.getMessage() for record in caplog.records] == [
        "Exception while exporting Span.",
        "Queue full, dropping Span.",
    ]


def test_no_exporter_takes_a_message_of_another(span: ReadableSpan, caplog: pytest.LogCaptureFixture) -> None:
    with Receiver() as receiver:
        first, second = (Reporting(OTLPSpanExporter(f"{receiver.endpoint}/v1/traces")) for _ in range(2))
        receiver.status = 403
        assert first.export([span]) is second.export([span]) is SpanExportResult.FAILURE
        for exporter in (first, second):
            exporter.shutdown()
    assert ["batch code: 403" in record.getMessage() for record in caplog.records] == [True, True]
