"""Where spans go: to an OTLP receiver, over HTTP, in the background."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

log = logging.getLogger(__name__)


def processor_of_environment() -> SpanProcessor:
    """Exports over OTLP, as OTEL_EXPORTER_OTLP_* and OTEL_BSP_* say. Raises ValueError."""
    return BatchSpanProcessor(Reporting(OTLPSpanExporter()))


class Reporting(SpanExporter):
    """An exporter that says once that it fails, and once that it works again. OpenTelemetry's logs every try."""

    def __init__(self, exporter: SpanExporter) -> None:
        self._exporter = exporter
        self._reason = ""  # why the last export failed, or was tried again
        self._lost = 0  # spans, since it last worked; without those for which the queue had no room
        self._exporter_log = logging.getLogger(type(exporter).__module__)
        self._queue_log = logging.getLogger("opentelemetry.sdk._shared_internal")
        self._queue_log.addFilter(self._is_news)

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        self._reason = ""
        # Only for this call: loggers are the process's, and one exporter's filter must not take another's message.
        self._exporter_log.addFilter(self._keep)
        try:
            result = self._exporter.export(spans)
        finally:
            self._exporter_log.removeFilter(self._keep)
        if result is not SpanExportResult.SUCCESS:
            if not self._lost:
                log.warning(
                    "traces cannot be exported; requests are served all the same. Check OTEL_EXPORTER_OTLP_ENDPOINT "
                    "and the receiver there: %s",
                    self._reason,
                )
            self._lost += len(spans)
        elif self._lost:
            log.info("traces are exported again; at least %d spans are lost", self._lost)
            self._lost = 0
        return result

    def shutdown(self) -> None:
        self._exporter.shutdown()
        self._queue_log.removeFilter(self._is_news)

    def _is_news(self, record: logging.LogRecord) -> bool:
        """That the queue is full is none while nothing is exported."""
        return not (self._lost and record.msg.startswith("Queue full"))

    def _keep(self, record: logging.LogRecord) -> bool:
        """The first message of an export says most."""
        self._reason = self._reason or record.getMessage()
        return False
