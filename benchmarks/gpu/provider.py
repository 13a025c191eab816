"""Stage 1, the provider: where nodes are placed, parity with PyTorch, the self-test, the tests that need a GPU."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np
import onnxruntime as ort

from benchmarks.gpu.plan import PRECISIONS, Plan, Report, model_folder
from service.card import MODEL_FILES, ModelCard, SelfTest
from service.engine import FILES, INPUT, load_engine
from service.providers import ORT_NAMES, cuda_options, open_session, usable_cores

BATCHES = (1, 3, 8, 64)  # of parity
AGREEMENT_IMAGES = 256


def run(plan: Plan, report: Report) -> None:
    """Of a published network in every precision of the device."""
    started = time.perf_counter()
    folder = model_folder(plan)
    report.add("model", {"folder": str(folder), "seconds": time.perf_counter() - started})
    card = ModelCard.read(folder)
    for precision in PRECISIONS[plan.device]:
        report.add("nodes", {"precision": precision, **placed(folder / MODEL_FILES[FILES[precision]], plan)})

    # imported only here: it brings PyTorch
    from model_export.parity import agreement, sample_images, torch_answers
    from model_export.random_weights import random_weights

    batches = (1, 3) if plan.tiny else BATCHES
    images = sample_images(16 if plan.tiny else AGREEMENT_IMAGES, card.preprocessing)
    graph = random_weights(card.architecture).serving_graph()
    expected, _, _ = torch_answers(graph, images[: sum(batches)])
    cpu = open_session(folder / MODEL_FILES["fp32"], "cpu", threads=usable_cores()).ort
    fp32: list[np.ndarray] = []
    for precision in PRECISIONS[plan.device]:
        opened = time.perf_counter()
        engine = load_engine(
            folder, card, provider=plan.device, precision=precision, threads=usable_cores(), max_batch=plan.sizes[-1]
        )
        opened = time.perf_counter() - opened
        difference = engine.self_test(SelfTest.read(folder))
        report.add("self-test", {"precision": precision, "of range": difference, "seconds to ready": opened})
        for start, size in zip(np.cumsum((0, *batches)), batches, strict=False):
            batch, theirs = images[start : start + size], expected[start : start + size]
            ours = engine.infer(batch)["logits"]
            (on_cpu,) = cpu.run(["logits"], {INPUT: batch})
            row = {
                "precision": precision,
                "batch": size,
                "PyTorch, of range": float(np.abs(ours - theirs).max() / np.ptp(expected)),
                "CPU provider, of range": float(np.abs(ours - on_cpu).max() / np.ptp(expected)),
                "top-1 as PyTorch": agreement(ours, theirs, 1),
            }
            report.add("parity", row)
        logits = engine.infer(images)["logits"]
        fp32 = fp32 or [logits]
        row = {"precision": precision, "images": len(images), "top-1 as fp32": agreement(logits, fp32[0], 1)}
        report.add("agreement", row)
    if plan.device == "cuda":
        report.add("tests", tests())


def placed(model: Path, plan: Plan) -> dict[str, object]:
    """How many nodes run on which provider, by ONNX Runtime's own profile of a batch of 2."""
    options = ort.SessionOptions()
    options.enable_profiling = True
    with tempfile.TemporaryDirectory() as folder:
        options.profile_file_prefix = str(Path(folder) / "profile")
        cuda = (ORT_NAMES["cuda"], cuda_options("fp16" if "fp16" in model.name else "fp32"))
        providers = [cuda] if plan.device == "cuda" else [ORT_NAMES["cpu"]]
        session = ort.InferenceSession(model, options, providers=providers, enable_fallback=0)
        shape = session.get_inputs()[0].shape[1:]
        session.run(["logits"], {INPUT: np.zeros((2, *shape), np.uint8)})
        events = json.loads(Path(session.end_profiling()).read_text())
    nodes = {event["args"]["node_index"]: event["args"] for event in events if "provider" in event.get("args", {})}
    by_provider = Counter(arguments["provider"] for arguments in nodes.values())
    operators = Counter(arguments["op_name"] for arguments in nodes.values())
    copies = sum(count for name, count in operators.items() if name.startswith("Memcpy"))
    return {**by_provider, "copies": copies, "operators": dict(operators.most_common())}


def tests() -> dict[str, object]:
    """The tests marked `gpu`. Without the project's settings, which need plug-ins that are not there."""
    command = ["-m", "pytest", "-c", os.devnull, "--rootdir", ".", "--import-mode", "importlib", "-q", "-m", "gpu"]
    finished = subprocess.run([sys.executable, *command, "tests/service"], capture_output=True, text=True)
    return {"status": finished.returncode, "last lines": finished.stdout.strip().splitlines()[-5:]}
