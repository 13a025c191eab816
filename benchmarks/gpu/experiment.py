"""What each option of the CUDA provider costs when the batch size changes.

One session for all batch sizes runs batches of 1, 64, 1 and 64. The first run of a shape builds its cuDNN plans; the
second visit to a shape tells whether they were kept. Then two CUDA graphs are captured and the first is replayed, which
tells whether a graph survives when its plans are replaced.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnxruntime as ort

from benchmarks.gpu.plan import Plan, Report, fault, model_folder, open_cuda
from service.runtime.choices import FILES
from service.runtime.graph import INPUT
from service.runtime.model_folder import MODEL_FILES
from service.runtime.providers import ORT_NAMES, cuda_options

# Instead of the service's options, which come first.
INSTEAD: tuple[dict[str, str], ...] = (
    {},
    {"fuse_conv_bias": "0"},
    {"prefer_nhwc": "0"},
    {"cudnn_conv_algo_search": "EXHAUSTIVE"},
    {"cudnn_conv_use_max_workspace": "0"},
)
STEADY_RUNS = 5


def run(plan: Plan, report: Report) -> None:
    """Times first and steady runs for every combination of options, then CUDA graphs, and reports cuDNN's log."""
    model = model_folder(plan) / MODEL_FILES[FILES[plan.precision]]
    small, large = plan.sizes[0], 64 if 64 in plan.sizes else plan.sizes[-1]
    if plan.device == "cpu":
        session = ort.InferenceSession(model, providers=[ORT_NAMES["cpu"]])
        report.add("options", {"options": "none", **visits(session, small, large)})
        return
    chosen = cuda_options(plan.precision)
    for options in INSTEAD:
        row: dict[str, object] = {"options": " ".join(f"{name}={value}" for name, value in options.items()) or "ours"}
        try:
            row |= visits(open_cuda(model, chosen | options), small, large)
        except Exception as error:  # that it does not run is a result, too
            row["error"] = fault(error)
        report.add("options", row)
    try:
        for row in graphs(model, chosen, small, large):
            report.add("graphs", row)
    except Exception as error:  # as above
        report.add("graphs", {"error": fault(error)})
    report.add("cuDNN log", cudnn_log(model))


def random_batch(session: ort.InferenceSession, size: int) -> np.ndarray:
    """Random images: uint8 `(size, 3, H, W)`."""
    shape = (size, *session.get_inputs()[0].shape[1:])
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def visits(session: ort.InferenceSession, small: int, large: int) -> dict[str, object]:
    """Milliseconds of the first run and of the following ones (median), at each visit to a batch size."""
    found: dict[str, object] = {}
    for visit, size in enumerate((small, large, small, large), start=1):
        batch = random_batch(session, size)
        took = []
        for _ in range(1 + STEADY_RUNS):
            started = time.perf_counter()
            session.run(["logits"], {INPUT: batch})
            took.append(1000 * (time.perf_counter() - started))
        found |= {f"{visit}: first of {size}": took[0], f"{visit}: steady": statistics.median(took[1:])}
    return found


def graphs(model: Path, options: dict[str, str], small: int, large: int) -> Iterator[dict[str, object]]:
    """Captures a graph for each of two batch sizes in one session, then replays both.

    Raises:
        Exception: whatever ONNX Runtime raises where that fails.
    """
    plain = open_cuda(model, options)
    session = open_cuda(model, options | {"enable_cuda_graph": "1"})
    bound: dict[int, tuple[ort.IOBinding, ort.OrtValue]] = {}
    for number, size in enumerate((small, large), start=1):
        binding, images = session.io_binding(), ort.OrtValue.ortvalue_from_numpy(random_batch(session, size), "cuda", 0)
        (classes,) = session.get_outputs()[0].shape[1:]
        logits = ort.OrtValue.ortvalue_from_shape_and_type((size, classes), np.float32, "cuda", 0)
        binding.bind_ortvalue_input(INPUT, images)
        binding.bind_ortvalue_output("logits", logits)
        bound[size] = binding, logits
        yield {"graph": number, "batch": size, "capture, ms": _replay(session, binding, number)}
    for number, size in enumerate((small, large), start=1):
        binding, logits = bound[size]
        took = statistics.median(_replay(session, binding, number) for _ in range(STEADY_RUNS))
        (expected,) = plain.run(["logits"], {INPUT: random_batch(session, size)})
        difference = float(np.abs(logits.numpy() - expected).max() / np.ptp(expected))
        yield {"replay of": number, "batch": size, "ms": took, "off, of range": difference}


def _replay(session: ort.InferenceSession, binding: ort.IOBinding, graph: int) -> float:
    """Milliseconds of a run: the first captures the graph of this number, later ones replay it."""
    options = ort.RunOptions()
    options.add_run_config_entry("gpu_graph_id", str(graph))
    started = time.perf_counter()
    session.run_with_iobinding(binding, options)
    binding.synchronize_outputs()
    return 1000 * (time.perf_counter() - started)


def cudnn_log(model: Path) -> dict[str, object]:
    """The log of cuDNN's front end while it builds the plans of one batch size, in a process of its own."""
    program = f"""
import torch, numpy as np
from pathlib import Path
from benchmarks.gpu.experiment import random_batch
from benchmarks.gpu.plan import open_cuda
from service.runtime.providers import cuda_options
session = open_cuda(Path({str(model)!r}), cuda_options("fp16"))
session.run(["logits"], {{"image": random_batch(session, 8)}})
"""
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "cudnn.log"
        environment = os.environ | {"CUDNN_FRONTEND_LOG_INFO": "1", "CUDNN_FRONTEND_LOG_FILE": str(log)}
        finished = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
        lines = log.read_text(errors="replace").splitlines() if log.exists() else []
    engines = [line for line in lines if "engine" in line.lower()]
    return {"status": finished.returncode, "lines": len(lines), "of engines": len(engines), "first": engines[:20]}
