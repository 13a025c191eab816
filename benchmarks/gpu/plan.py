"""What the stages share: the plan of measurements, the report that saves them, and the model."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import onnxruntime as ort

from benchmarks.machine import describe, save
from benchmarks.models import RESNET8, RESNET50, demo, published
from benchmarks.timing import cost
from model_export.drawings.pictures import picture
from service.runtime.choices import Precision
from service.runtime.machine import usable_cores
from service.runtime.model_card import Architecture
from service.runtime.providers import ORT_NAMES, ProviderUnavailable, require

Device = Literal["cuda", "cpu"]

# Precisions that are compared on a device; the service and PyTorch compute in the last.
PRECISIONS: dict[Device, tuple[Precision, ...]] = {"cuda": ("fp32", "fp16"), "cpu": ("fp32",)}

WARM_UP = 3  # runs before those that count

AGREEMENT_IMAGES = 2048


class Plan(NamedTuple):
    """What to measure, and for how long."""

    device: Device
    tiny: bool  # a ResNet-8 for 32x32 pixels, and short measurements: to try the program
    out: Path

    @property
    def architecture(self) -> Architecture:
        return RESNET8 if self.tiny else RESNET50

    @property
    def sizes(self) -> tuple[int, ...]:
        """Batch sizes."""
        return (1, 2) if self.tiny else (1, 8, 32, 64, 128)

    @property
    def seconds(self) -> float:
        """To measure one rate for."""
        return 0.05 if self.tiny else 0.4

    @property
    def precision(self) -> Precision:
        """In which the service and PyTorch compute."""
        return PRECISIONS[self.device][-1]


class Report:
    """The results of one stage. Each row is printed and saved at once: a run that is cut short keeps its results.

    The file of an earlier run is replaced by the first row.
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
    """Runs of a step per second of wall time."""
    return 1 / cost(step, seconds, warm_up=WARM_UP).wall_s


def mixed_sizes(largest: int, count: int = 200) -> list[int]:
    """Batch sizes as a service forms them under a changing load: random ones from 1 to the largest, always the same."""
    return [int(size) for size in np.random.default_rng(0).integers(1, largest + 1, count)]


def mixed_rate(infer: Callable[[np.ndarray], object], batch: np.ndarray, seconds: float) -> float:
    """Images/s over batches of mixed sizes: images ÷ wall time. Every size runs once before the clock starts.

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
    """A session for all batch sizes, with these options of the provider.

    Raises:
        RuntimeError: ONNX Runtime chose another provider. It also raises exceptions of its own.
    """
    session = ort.InferenceSession(model, providers=[(provider, dict(options))], enable_fallback=0)
    if (got := session.get_providers()[0]) != provider:
        raise RuntimeError(f"asked for {provider}, onnxruntime gave {got}")
    return session


def fault(error: Exception) -> str:
    """The first line of an error, for a row of results."""
    return f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"


def model_folder(plan: Plan) -> Path:
    """The folder of a published network of random weights, with files in fp32 and fp16."""
    return published(plan.architecture, "fp16")


def trained_folder() -> Path:
    """The folder of a trained ResNet-18, with files in fp32 and fp16: agreement says little of random weights."""
    return demo("fp16")


def held_out_jpegs(plan: Plan) -> list[bytes]:
    """Drawings that the trained network has not seen, as JPEG files."""
    from model_export.demo import PICTURES

    count = 12 if plan.tiny else AGREEMENT_IMAGES
    with multiprocessing.get_context("spawn").Pool(usable_cores()) as pool:
        return pool.starmap(picture, [(0, index) for index in range(PICTURES, PICTURES + count)], chunksize=32)


def agreement(logits: np.ndarray, others: np.ndarray) -> float:
    """The fraction of images with the same top class."""
    return float((logits.argmax(axis=1) == others.argmax(axis=1)).mean())


def machine_of(plan: Plan) -> dict[str, str]:
    """The machine, and the GPU with its software. Raises ProviderUnavailable, which names what is missing."""
    if plan.device == "cpu":
        return describe()
    import torch  # before ONNX Runtime needs CUDA: it uses the CUDA and cuDNN that PyTorch has loaded

    if not torch.cuda.is_available():
        raise ProviderUnavailable(
            f"PyTorch {torch.__version__} sees no GPU: run this where `nvidia-smi` shows one, with a build of PyTorch "
            "for its CUDA (https://pytorch.org/get-started/locally)"
        )
    # The service, a process without PyTorch, needs the same libraries.
    folders = library_folders(Path("/proc/self/maps").read_text())
    os.environ["LD_LIBRARY_PATH"] = ":".join(filter(None, (os.environ.get("LD_LIBRARY_PATH"), *folders)))
    require("cuda")
    return describe() | {
        "gpu": torch.cuda.get_device_name(0),
        "cuda": str(torch.version.cuda),
        "cudnn": str(torch.backends.cudnn.version()),  # type: ignore[no-untyped-call]
    }


def library_folders(maps: str) -> Sequence[str]:
    """The folders that a process has loaded CUDA's libraries from, by its `/proc/PID/maps`."""
    libraries = ("libcudart", "libcublas", "libcudnn", "libcufft", "libcurand", "libnvrtc")
    paths = [Path(line.split(maxsplit=5)[-1]) for line in maps.splitlines()]
    return sorted({str(path.parent) for path in paths if path.name.startswith(libraries)})
