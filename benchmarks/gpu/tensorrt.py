"""Images/s of the same network on ONNX Runtime's TensorRT provider, where it loads.

onnxruntime-gpu 1.31 needs TensorRT 10 (`libnvinfer.so.10`), which PyPI does not carry: its `tensorrt-cu13-libs` fetches
it from NVIDIA's own index while it installs.
"""

from __future__ import annotations

import ctypes
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime as ort

from benchmarks.gpu.plan import Plan, Report, fault, model_folder, open_cuda, per_second
from service.runtime.graph import INPUT
from service.runtime.model_folder import MODEL_FILES

LIBRARIES = ("libnvinfer.so.10", "libnvonnxparser.so.10")
PROVIDER = "TensorrtExecutionProvider"


def run(plan: Plan, report: Report) -> None:
    """Measures an engine for each batch size: images/s, and the seconds to build it and to load it from the cache."""
    if missing := unavailable():
        report.add("TensorRT", {"not measured": missing})
        return
    model = model_folder(plan) / MODEL_FILES["fp32"]
    for size in reversed(plan.sizes):
        row: dict[str, object] = {"batch": size}
        # A cache for each size: with a shared one, smaller batches would take the engine of the largest.
        with tempfile.TemporaryDirectory() as cache:
            try:
                row["built, s"], _ = _first_run(model, cache, size)
                row["cached, s"], infer = _first_run(model, cache, size)
                row["images/s"] = size * per_second(infer, plan.seconds)
            except Exception as error:  # that a size does not run is a result, too
                row["error"] = fault(error)
        report.add("TensorRT", row)


def unavailable() -> str | None:
    """Why TensorRT cannot be used here; None if it can."""
    if PROVIDER not in ort.get_available_providers():
        return "this build of onnxruntime has no TensorRT"
    for library in LIBRARIES:
        try:
            ctypes.CDLL(library)
        except OSError as error:
            return f"{library} does not load: {error}"
    return None


def _first_run(model: Path, cache: str, size: int) -> tuple[float, Callable[[], object]]:
    """Seconds until the first batch is computed, and a function that computes another."""
    options = {"trt_fp16_enable": "1", "trt_engine_cache_enable": "1", "trt_engine_cache_path": cache}
    started = time.perf_counter()
    session = open_cuda(model, options, PROVIDER)
    batch = np.zeros((size, *session.get_inputs()[0].shape[1:]), np.uint8)

    def infer() -> object:
        return session.run(["logits"], {INPUT: batch})

    infer()
    return time.perf_counter() - started, infer
