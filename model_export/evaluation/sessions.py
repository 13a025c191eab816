"""ONNX Runtime sessions for graphs that are not files yet."""

from __future__ import annotations

import tempfile
from pathlib import Path

import onnx
from onnx import ModelProto

from service.runtime.choices import Precision, ProviderName
from service.runtime.machine import usable_cores
from service.runtime.providers import Session, open_session


def open_graph(model: ModelProto, provider: ProviderName = "cpu", precision: Precision = "fp32") -> Session:
    """A session of a graph, on all cores. Raises ProviderUnavailable as `open_session` does."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        onnx.save(model, path)
        return open_session(path, provider, precision, threads=usable_cores())
