"""Correctness on the GPU: placement of nodes, self-test, parity with PyTorch, the GPU tests."""

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

from benchmarks.gpu.plan import (
    PRECISIONS,
    Plan,
    Report,
    agreement,
    fault,
    held_out_jpegs,
    model_folder,
    trained_folder,
)
from model_export.demo import PICTURES
from service.runtime.choices import FILES, Precision
from service.runtime.graph import INPUT
from service.runtime.images.decoding import decode
from service.runtime.loading import load_engine
from service.runtime.machine import usable_cores
from service.runtime.model_folder import MODEL_FILES, read_card
from service.runtime.providers import ORT_NAMES, ProviderUnavailable, cuda_options, open_session
from service.runtime.self_test import SelfTest, SelfTestFailed

PARITY_BATCHES = (1, 3, 8, 64)


def run(plan: Plan, report: Report) -> None:
    """Checks a published network in every precision of the device."""
    started = time.perf_counter()
    folder = model_folder(plan)
    report.add("model", {"name": folder.parent.name, "seconds": time.perf_counter() - started})
    card = read_card(folder)
    for precision in reversed(PRECISIONS[plan.device]):
        report.add("nodes", placed(folder, precision, plan))

    # imported here because they bring PyTorch
    from model_export.drawings.samples import sample_images
    from model_export.export.parity_gate import torch_answers
    from model_export.weights.random_weights import random_weights

    images = sample_images(sum(parity_batches(plan)), card.preprocessing)
    expected, _, _ = torch_answers(random_weights(card.architecture).serving_graph(), images)
    (on_cpu,) = open_session(folder / MODEL_FILES["fp32"], "cpu", threads=usable_cores()).ort.run(
        ["logits"], {INPUT: images}
    )
    for precision in reversed(PRECISIONS[plan.device]):
        try:
            check(folder, precision, images, expected, on_cpu, plan, report)
        except (ProviderUnavailable, SelfTestFailed) as error:
            report.add("self-test", {"precision": precision, "error": fault(error)})
    compare_precisions(plan, report)
    if plan.device == "cuda":
        report.add("tests", tests())


def compare_precisions(plan: Plan, report: Report) -> None:
    """How often a trained network gives the same class in each precision as in fp32 on the CPU provider."""
    folder = trained_folder()
    card = read_card(folder)
    jpegs = held_out_jpegs(plan)
    images = np.stack([decode(jpeg, card.preprocessing, max_pixels=10**9).pixels for jpeg in jpegs])
    session = open_session(folder / MODEL_FILES["fp32"], "cpu", threads=usable_cores()).ort
    batches = np.split(images, range(PARITY_BATCHES[-1], len(images), PARITY_BATCHES[-1]))
    on_cpu = np.concatenate([session.run(["logits"], {INPUT: batch})[0] for batch in batches])
    labels = np.arange(PICTURES, PICTURES + len(images)) % len(card.labels)
    for precision in reversed(PRECISIONS[plan.device]):
        try:
            engine = load_engine(folder, card, provider=plan.device, precision=precision, threads=usable_cores())
        except (ProviderUnavailable, SelfTestFailed) as error:
            report.add("agreement", {"precision": precision, "error": fault(error)})
            continue
        logits = np.concatenate([engine.infer(batch)["logits"] for batch in batches])
        row = {
            "precision": precision,
            "images": len(images),
            "top-1 as fp32 on CPU": agreement(logits, on_cpu),
            "right": float((logits.argmax(axis=1) == labels).mean()),
        }
        report.add("agreement", row)


def parity_batches(plan: Plan) -> tuple[int, ...]:
    """The batch sizes in which logits are compared."""
    return (1, 3) if plan.tiny else PARITY_BATCHES


def check(
    folder: Path,
    precision: Precision,
    images: np.ndarray,
    expected: np.ndarray,
    on_cpu: np.ndarray,
    plan: Plan,
    report: Report,
) -> None:
    """Opens a published network as the service does; reports its self-test and its parity.

    Args:
        images: uint8 `(N, 3, crop, crop)`.
        expected, on_cpu: their logits by PyTorch and by the CPU provider; float32 `(N, classes)`.

    Raises:
        ProviderUnavailable, SelfTestFailed: as in `load_engine`.
    """
    started = time.perf_counter()
    engine = load_engine(
        folder,
        read_card(folder),
        provider=plan.device,
        precision=precision,
        threads=usable_cores(),
        max_batch=plan.sizes[-1],
    )
    opened = time.perf_counter() - started
    difference = engine.self_test(SelfTest.read(folder))
    report.add("self-test", {"precision": precision, "of range": difference, "seconds to ready": opened})
    start = 0
    for size in parity_batches(plan):
        part = slice(start, start := start + size)
        ours, scale = engine.infer(images[part])["logits"], float(np.ptp(expected))
        row = {
            "precision": precision,
            "batch": size,
            "PyTorch, of range": float(np.abs(ours - expected[part]).max()) / scale,
            "CPU provider, of range": float(np.abs(ours - on_cpu[part]).max()) / scale,
            "top-1 as PyTorch": agreement(ours, expected[part]),
        }
        report.add("parity", row)


def placed(folder: Path, precision: Precision, plan: Plan) -> dict[str, object]:
    """How many nodes run on which provider, from ONNX Runtime's profile of a batch of 2."""
    model = folder / MODEL_FILES[FILES[precision]]
    options = ort.SessionOptions()
    options.enable_profiling = True
    with tempfile.TemporaryDirectory() as profiles:
        options.profile_file_prefix = str(Path(profiles) / "profile")
        cuda = (ORT_NAMES["cuda"], cuda_options(precision))
        providers = [cuda] if plan.device == "cuda" else [ORT_NAMES["cpu"]]
        session = ort.InferenceSession(model, options, providers=providers, enable_fallback=0)
        shape = session.get_inputs()[0].shape[1:]
        session.run(["logits"], {INPUT: np.zeros((2, *shape), np.uint8)})
        events = json.loads(Path(session.end_profiling()).read_text())
    nodes = {event["args"]["node_index"]: event["args"] for event in events if "provider" in event.get("args", {})}
    by_provider = Counter(arguments["provider"] for arguments in nodes.values())
    operators = Counter(arguments["op_name"] for arguments in nodes.values())
    copies = sum(count for name, count in operators.items() if name.startswith("Memcpy"))
    return {"precision": precision, **by_provider, "copies": copies, "operators": dict(operators.most_common())}


def tests() -> dict[str, object]:
    """Runs the tests marked `gpu`, without the project's pytest settings: they need plug-ins that may be missing.

    Only the files that hold such tests: others import packages that may be missing.
    """
    files = sorted(str(path) for path in Path("tests").rglob("test_*.py") if "mark.gpu" in path.read_text())
    command = ["-m", "pytest", "-c", os.devnull, "--rootdir", ".", "--import-mode", "importlib", "-q", "-m", "gpu"]
    # Without the project's settings pytest warns of the mark, and names this folder.
    command.append("--disable-warnings")
    finished = subprocess.run([sys.executable, *command, *files], capture_output=True, text=True)
    return {"status": finished.returncode, "last lines": finished.stdout.strip().splitlines()[-5:]}
