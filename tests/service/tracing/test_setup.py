"""Whether requests are traced, by what the environment says."""

from __future__ import annotations

import logging
import os
import subprocess
import sys

import pytest

from service.tracing import setup
from service.tracing.setup import open_spans

ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"


@pytest.mark.parametrize(
    "variables",
    [
        {},
        {ENDPOINT: " "},
        {ENDPOINT: "http://127.0.0.1:1", "OTEL_SDK_DISABLED": "True"},
        {ENDPOINT: "http://127.0.0.1:1", "OTEL_TRACES_EXPORTER": "none"},
        {ENDPOINT: "http://127.0.0.1:1", "OTEL_TRACES_EXPORTER": "console"},
        {"OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": "http://127.0.0.1:1"},
        {"OTEL_SERVICE_NAME": "shop"},
    ],
)
def test_off(variables: dict[str, str], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert open_spans() is None
    assert not caplog.records


@pytest.mark.parametrize(
    "variables",
    [
        {ENDPOINT: "http://127.0.0.1:1"},
        {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://127.0.0.1:1/v1/traces"},
        {"OTEL_TRACES_EXPORTER": "console, OTLP"},
        {ENDPOINT: "http://127.0.0.1:1", "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf", "OTEL_SDK_DISABLED": "false"},
    ],
)
def test_on(variables: dict[str, str], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    spans = open_spans()
    assert spans is not None
    spans.close()
    assert not caplog.records


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc", "OTEL_EXPORTER_OTLP_PROTOCOL is grpc: set it to http/protobuf"),
        ("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "0", "max_export_batch_size must be a positive integer"),
    ],
)
def test_what_cannot_be_done_is_said(
    name: str, value: str, said: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv(ENDPOINT, "http://127.0.0.1:1")
    monkeypatch.setenv(name, value)
    assert open_spans() is None
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert record.getMessage().startswith("requests are not traced: ")
    assert said in record.getMessage()


def test_without_the_extra(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setenv(ENDPOINT, "http://127.0.0.1:1")
    monkeypatch.setitem(setup.NEEDED, "no_such_package.sdk", "no-such-package")
    assert open_spans() is None
    assert "no-such-package is not installed: run pip install 'resnet-service[otel]'" in caplog.text


def test_off_imports_nothing() -> None:
    """But for the API without an SDK, which FastAPI imports."""
    program = (
        "import sys, service.app, service.workers.supervisor, service.grpc_api.port; from service.tracing.setup import "
        "open_spans; assert open_spans() is None; "
        "assert not {'opentelemetry.sdk', 'opentelemetry.exporter', 'service.tracing.spans'} & set(sys.modules)"
    )
    environment = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
    subprocess.run([sys.executable, "-c", program], env=environment, check=True)
