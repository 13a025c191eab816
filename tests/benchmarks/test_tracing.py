"""The receiver of benchmarks.tracing, with the exporter that the service has."""

from __future__ import annotations

import time

import pytest

from benchmarks.tracing import receiver
from service.tracing.setup import open_spans
from tests.support.otlp import forget_variables


def test_the_receiver_counts_what_is_exported(monkeypatch: pytest.MonkeyPatch) -> None:
    forget_variables(monkeypatch)
    with receiver() as taken:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{taken.server_port}")
        spans = open_spans()
        assert spans is not None
        trace = spans.begin(lambda name: (), "POST", time.perf_counter())
        assert trace is not None
        spans.end(trace, time.perf_counter(), 0.0, "POST /classify", {}, "", failed=False)
        spans.close()
        assert taken.received > 100
