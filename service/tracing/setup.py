"""Whether requests are traced: as OpenTelemetry's own environment variables say. Imports it only if they are."""

from __future__ import annotations

import logging
import os
from importlib.util import find_spec
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from service.tracing.spans import Spans

log = logging.getLogger(__name__)

ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
PROTOCOL = "http/protobuf"

# Packages of the extra, by a module of each.
NEEDED = {
    "opentelemetry.sdk": "opentelemetry-sdk",
    "opentelemetry.exporter.otlp.proto.http": "opentelemetry-exporter-otlp-proto-http",
}


def open_spans(process: str = "") -> Spans | None:
    """Where the spans of this process go; None if requests are not traced.

    The variables may be meant for other programs, too, so the service starts with any of them: what it cannot do, it
    says in the log.

    Args:
        process: names this process among several.
    """
    if not _asked():
        return None
    protocol = _first(PROTOCOLS) or PROTOCOL
    if protocol != PROTOCOL:
        log.warning(
            "requests are not traced: OTEL_EXPORTER_OTLP_PROTOCOL is %s: set it to %s, and the endpoint to the "
            "collector's port for HTTP (4318 by convention)",
            *(protocol, PROTOCOL),
        )
        return None
    if missing := [package for module, package in NEEDED.items() if not _installed(module)]:
        log.warning(
            "requests are not traced: an endpoint for traces is set, but %s is not installed: run pip install "
            "'resnet-service[otel]'",
            " and ".join(missing),
        )
        return None
    from service.tracing.exporting import processor_of_environment  # need what the extra installs
    from service.tracing.spans import Spans

    try:
        return Spans(processor_of_environment(), process)
    except ValueError as error:  # of OTEL_BSP_MAX_QUEUE_SIZE and the like
        log.warning("requests are not traced: an OTEL_ variable has no valid value: %s", error)
        return None


def _asked() -> bool:
    """Whether the environment asks for traces: by an endpoint, or by naming the exporter."""
    if os.environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return False
    exporters = [name.strip() for name in os.environ.get("OTEL_TRACES_EXPORTER", "").lower().split(",") if name.strip()]
    return "otlp" in exporters if exporters else bool(_first(ENDPOINTS))


def _first(names: tuple[str, ...]) -> str:
    return next((value for name in names if (value := os.environ.get(name, "").strip())), "")


def _installed(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # nor is a package above it
        return False
