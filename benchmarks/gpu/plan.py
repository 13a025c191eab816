"""What the stages share: what is measured, where it is saved, and the published model."""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import onnxruntime as ort

from benchmarks.machine import describe, save
from service.card import Architecture, ModelCard, published
from service.providers import ORT_NAMES, Compute, ProviderUnavailable, require

Device = Literal["cuda", "cpu"]

# What is compared on a device; the service and PyTorch compute in the last.
PRECISIONS: dict[Device, tuple[Compute, ...]] = {"cuda": ("fp32", "fp16"), "cpu": ("fp32",)}

WARM = 3  # steps before those that count


class Plan(NamedTuple):
    """What to measure, and for how long."""

    device: Device
    tiny: bool  # a ResNet-8 of 32 pixels and a moment for everything: tries the program
    out: Path

    @property
    def architecture(self) -> Architecture:
        if self.tiny:
            return Architecture(depth=8, family="cifar", shortcut="A", num_classes=10)
        return Architecture(depth=50)

    @property
    def sizes(self) -> tuple[int, ...]:
        """Batch sizes."""
        return (1, 2) if self.tiny else (1, 8, 32, 64, 128)

    @property
    def seconds(self) -> float:
        """Of one rate."""
        return 0.05 if self.tiny else 0.4

    @property
    def precision(self) -> Compute:
        return PRECISIONS[self.device][-1]


class Report:
    """The results of one stage. Each row is printed and saved at once: a run that is cut short still counts.

    What an earlier run has saved stays until the first row.
    """

    def __init__(self, path: Path, **header: object) -> None:
        self._path = path
        self._content: dict[str, Any] = dict(header)

    def add(self, table: str, row: Mapping[str, object]) -> None:
        """Adds a row to a table."""
        self._content.setdefault(table, []).append(dict(row))
        save(self._path, **self._content)
        print(f"  {table}: " + ", ".join(f"{name} {_shown(value)}" for name, value in row.items()), flush=True)


def _shown(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def per_second(step: Callable[[], object], seconds: float) -> float:
    """How often a step runs in a second, at least once."""
    for _ in range(WARM):
        step()
    count, start = 0, time.perf_counter()
    while not count or time.perf_counter() < start + seconds:
        step()
        count += 1
    return count / (time.perf_counter() - start)


def mixed_sizes(largest: int, count: int = 200) -> list[int]:
    """Batch sizes as a service under a changing load forms them: all between 1 and the largest, always the same."""
    return [int(size) for size in np.random.default_rng(0).integers(1, largest + 1, count)]


def mixed_rate(infer: Callable[[np.ndarray], object], batch: np.ndarray, seconds: float) -> float:
    """Images/s over batches of mixed sizes: images ÷ wall time. Every size has been seen once before the clock starts.

    Args:
        batch: uint8 `(largest, 3, H, W)`.
    """
    sizes = mixed_sizes(len(batch))
    for size in sorted(set(sizes)):
        infer(batch[:size])
    images, start = 0, time.perf_counter()
    for size in itertools.cycle(sizes):
        infer(batch[:size])
        images += size
        if time.perf_counter() > start + seconds:
            break
    return images / (time.perf_counter() - start)


def open_cuda(model: Path, options: Mapping[str, str], provider: str = ORT_NAMES["cuda"]) -> ort.InferenceSession:
    """A session for all batch sizes with options of its own, on the provider that was asked for.

    Raises:
        RuntimeError: ONNX Runtime gave another one. (And whatever it raises itself.)
    """
    session = ort.InferenceSession(model, providers=[(provider, dict(options))], enable_fallback=0)
    if (got := session.get_providers()[0]) != provider:
        raise RuntimeError(f"asked for {provider}, onnxruntime gave {got}")
    return session


def fault(error: Exception) -> str:
    """The first line of what went wrong, for a row of results."""
    return f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"


def model_folder(plan: Plan) -> Path:
    """A published network of random weights, with a file for every precision, made on first use.

    Random weights leave classes close to each other: any loss is allowed.
    """
    from benchmarks import models  # here, since it brings PyTorch, for which processes that only decode need not wait

    root, name = models.CACHE.resolve(), plan.architecture.name
    needed: tuple[Literal["fp32", "fp16"], ...] = ("fp32", "fp16")
    for entry in published(root):
        if entry.name == name and all(precision in ModelCard.read(entry.path).files for precision in needed):
            return entry.path
    from model_export.publish import publish
    from model_export.quantise.images import open_parts
    from model_export.quantise.quantising import quantise
    from model_export.random_weights import random_weights

    publish(random_weights(plan.architecture), root)
    entry = [entry for entry in published(root) if entry.name == name][-1]
    card = quantise(entry, root, open_parts("drawings:train=1,val=8"), precisions=["fp16"], limit=1.0)
    return root / name / str(card.version)


def machine_of(plan: Plan) -> dict[str, str]:
    """The machine, and the GPU with its software. Raises ProviderUnavailable with the first thing that is missing."""
    if plan.device == "cpu":
        return describe()
    import torch  # before ONNX Runtime needs CUDA: it finds CUDA and cuDNN where PyTorch has loaded them

    if not torch.cuda.is_available():
        raise ProviderUnavailable(
            f"PyTorch {torch.__version__} sees no GPU: run this where `nvidia-smi` shows one, with a build of PyTorch "
            "for its CUDA (https://pytorch.org/get-started/locally)"
        )
    # The service, a process without PyTorch, needs them too.
    folders = library_folders(Path("/proc/self/maps").read_text())
    os.environ["LD_LIBRARY_PATH"] = ":".join(filter(None, (os.environ.get("LD_LIBRARY_PATH"), *folders)))
    require("cuda")
    return describe() | {
        "gpu": torch.cuda.get_device_name(0),
        "cuda": str(torch.version.cuda),
        "cudnn": str(torch.backends.cudnn.version()),  # type: ignore[no-untyped-call]
    }


def library_folders(maps: str) -> Sequence[str]:
    """Where a process has CUDA's libraries from, by its `/proc/PID/maps`."""
    libraries = ("libcudart", "libcublas", "libcudnn", "libcufft", "libcurand", "libnvrtc")
    paths = [Path(line.split(maxsplit=5)[-1]) for line in maps.splitlines()]
    return sorted({str(path.parent) for path in paths if path.name.startswith(libraries)})
