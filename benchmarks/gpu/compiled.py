"""Stage 7, `torch.compile`, last because it compiles for long: images/s for single batch sizes."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.gpu.engine import torch_forward, torch_infer
from benchmarks.gpu.plan import Plan, Report, fault, model_folder, per_second
from service.card import ModelCard

if TYPE_CHECKING:
    from torch import Tensor

# Each takes a quarter of a minute and more, so those that the comparison with our engine needs come first.
CASES = (("default", 64), ("default", 128), ("default", 1), ("max-autotune", 64), ("default", 8), ("default", 32))


def run(plan: Plan, report: Report) -> None:
    """PyTorch compiled for each batch size by itself, in the same precision as the service."""
    crop = ModelCard.read(model_folder(plan)).preprocessing.crop
    forward = torch_forward(plan)
    for mode, size in (("default", plan.sizes[-1]),) if plan.tiny else CASES:
        row: dict[str, object] = {"mode": mode, "precision": plan.precision, "batch": size}
        try:
            row |= compiled(forward, mode, np.zeros((size, 3, crop, crop), np.uint8), plan)
        except Exception as error:  # whatever the compiler, or the compilers that it calls, raise
            row["error"] = fault(error)
        report.add("PyTorch compiled", row)


def compiled(forward: Callable[[Tensor], Tensor], mode: str, batch: np.ndarray, plan: Plan) -> dict[str, float]:
    """How long it compiles for a batch, and images/s after that."""
    import torch

    torch.compiler.reset()
    # A whole graph for each shape: PyTorch must not go back to eager mode, or to shapes left open, in silence.
    step = torch.compile(forward, mode=mode, fullgraph=True, dynamic=False)
    infer = torch_infer(step, plan.device, len(batch))
    started = time.perf_counter()
    infer(batch)
    took = time.perf_counter() - started
    return {"compiled, s": took, "images/s": len(batch) * per_second(lambda: infer(batch), plan.seconds)}
