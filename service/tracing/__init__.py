"""Traces of requests by OpenTelemetry. Needs the extra `otel`, which is imported only where traces are exported."""
