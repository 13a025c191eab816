"""Images/s of PyTorch compiled by `torch.compile`, for single batch sizes.

The last stage, because compiling is slow.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.gpu.engine import torch_forward, torch_infer
from benchmarks.gpu.plan import Plan, Report, fault, model_folder, per_second
from service.runtime.model_folder import read_card

if TYPE_CHECKING:
    from torch import Tensor

# Each takes a quarter of a minute and more. Those that are compared with our engine come first.
CASES = (("default", 64), ("default", 128), ("default", 1), ("default", 8), ("default", 32), ("max-autotune", 64))


def run(plan: Plan, report: Report) -> None:
    """Measures PyTorch compiled for each batch size by itself, in the precision of the service."""
    shape = read_card(model_folder(plan)).preprocessing.shape
    forward = torch_forward(plan)
    for mode, size in (("default", plan.sizes[-1]),) if plan.tiny else CASES:
        row: dict[str, object] = {"mode": mode, "precision": plan.precision, "batch": size}
        try:
            row |= compiled(forward, mode, np.zeros((size, *shape), np.uint8), plan)
        except Exception as error:  # the compiler calls others, which raise exceptions of their own
            row["error"] = fault(error)
        report.add("PyTorch compiled", row)


def compiled(forward: Callable[[Tensor], Tensor], mode: str, batch: np.ndarray, plan: Plan) -> dict[str, float]:
    """The seconds of compiling for a batch, and images/s after that."""
    import torch

    torch.compiler.reset()
    # One whole graph for each shape: PyTorch must not silently fall back to eager mode or to dynamic shapes.
    step = torch.compile(forward, mode=mode, fullgraph=True, dynamic=False)
    infer = torch_infer(step, plan.device, len(batch))
    started = time.perf_counter()
    infer(batch)
    took = time.perf_counter() - started
    return {"compiled, s": took, "images/s": len(batch) * per_second(lambda: infer(batch), plan.seconds)}
