"""Serves published ResNets over HTTP through ONNX Runtime. Never imports torch."""

import os

# Before ONNX Runtime is imported: it would report to its maker and keep a device id under the home (docs/security.md).
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
