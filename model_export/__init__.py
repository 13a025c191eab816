"""Trains or loads ResNets in PyTorch, proves and converts them to ONNX, and publishes them to a model folder."""

import os

# As in `service`, whichever of the two is imported first.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
