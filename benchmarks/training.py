"""Training speed: a bare PyTorch loop, our trainer on one batch, and our trainer fed from JPEGs.

All three compute the same network with the same optimiser, precision and memory layout. They alternate in one process,
round after round, and medians are reported. The bare loop, on synthetic tensors, shows what the hardware and PyTorch
allow. The trainer adds normalisation and bookkeeping; loading adds reading, decoding and augmenting (`paper-imagenet`).

    python -m benchmarks.training [--rounds 3] [--seconds 6] [--json FILE]
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from benchmarks.machine import describe, save
from benchmarks.photo import SIZE, photo
from model_export.datasets.base import Data
from model_export.datasets.image_folder import ImageFolder, open_images
from model_export.nets.resnet import build
from model_export.training.loader import training_batches
from model_export.training.machine import AutocastPrecision, Machine
from model_export.training.optimizer import make_optimizer
from model_export.training.plan import Plan
from model_export.training.recipe import override
from model_export.training.recipes import RECIPES
from model_export.training.start import begin
from model_export.training.trainer import Trainer
from service.runtime.model_card import Architecture

DEPTHS = (18, 50)
PRECISIONS: tuple[AutocastPrecision, ...] = ("fp32", "bf16")
BATCH = 32
IMAGES = 256
MODES = ("bare", "engine", "loaded")  # also the keys in the JSON file: "engine" is our trainer


class Case(NamedTuple):
    """One network in one precision, with a training step for each mode."""

    depth: int
    precision: AutocastPrecision
    steps: dict[str, Callable[[], object]]


def image_folder(root: Path) -> ImageFolder:
    """A data set of JPEG files of a photograph's size, in two classes."""
    data = photo()
    for i in range(IMAGES):
        path = root / ("even", "odd")[i % 2] / f"{i}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return open_images(root, shown=False)


def bare_step(architecture: Architecture, dtype: torch.dtype | None) -> Callable[[], object]:
    """The loop of a PyTorch tutorial, with channels_last and a fused optimiser."""
    net = build(architecture).train().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = make_optimizer(net, RECIPES["paper-imagenet"])
    x = torch.randn(BATCH, 3, 224, 224).to(memory_format=torch.channels_last)
    y = torch.randint(0, architecture.num_classes, (BATCH,))

    def step() -> None:
        with torch.autocast("cpu", dtype or torch.bfloat16, enabled=dtype is not None):
            logits = net(x)
        loss = F.cross_entropy(logits.float(), y)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    return step


def case(depth: int, precision: AutocastPrecision, images: ImageFolder, out: Path) -> Case:
    architecture = Architecture(depth=depth, num_classes=1000)
    recipe = override(RECIPES["paper-imagenet"], {"batch_size": BATCH, "epochs": 10_000})
    start = begin(architecture, recipe, images)
    machine = Machine(precision=precision, device="cpu")
    trainer = Trainer(start, recipe, Data(images, images), out, machine=machine, shown=False)
    batches = trainer.feed.training(first_step=0)
    trainer.net.train()
    batch = next(batches)

    def loaded() -> tuple[Tensor, Tensor]:
        return trainer.train_step(next(batches))

    return Case(
        depth,
        precision,
        {
            "bare": bare_step(architecture, trainer.dtype),
            "engine": lambda: trainer.train_step(batch),
            "loaded": loaded,
        },
    )


def images_per_s(step: Callable[[], object], seconds: float) -> float:
    step()  # to warm up
    count, begun = 0, time.perf_counter()
    while time.perf_counter() < begun + seconds:
        step()
        count += 1
    return count * BATCH / (time.perf_counter() - begun)


def loading_cost(images: ImageFolder, seconds: float) -> float:
    """CPU-seconds to read, decode and augment an image, on one core."""
    recipe = override(RECIPES["paper-imagenet"], {"batch_size": BATCH, "epochs": 10_000})
    start = begin(Architecture(depth=18, num_classes=2), recipe, images)
    plan = Plan(len(images), recipe, 10_000, seed=0)
    batches = training_batches(images, plan, start.palette, first_step=0, workers=0, pin=False)
    next(batches)
    count, cpu, end = 0, time.process_time(), time.perf_counter() + seconds
    while time.perf_counter() < end:
        count += len(next(batches).labels)
    return (time.process_time() - cpu) / count


def measure(rounds: int, seconds: float) -> tuple[list[dict[str, object]], float]:
    rows: list[dict[str, object]] = []
    with tempfile.TemporaryDirectory() as root, tqdm(total=len(DEPTHS) * len(PRECISIONS) * rounds) as bar:
        images = image_folder(Path(root) / "images")
        cost = loading_cost(images, seconds)
        for depth in DEPTHS:
            for precision in PRECISIONS:
                out = Path(root) / f"{depth}-{precision}"
                out.mkdir()
                steps = case(depth, precision, images, out).steps
                rates: dict[str, list[float]] = {mode: [] for mode in MODES}  # images/s
                for _ in range(rounds):
                    for mode in MODES:
                        rates[mode].append(images_per_s(steps[mode], seconds))
                    bar.update()
                rows.append({"depth": depth, "precision": precision, **rates})
    return rows, cost


def table(rows: list[dict[str, object]]) -> str:
    lines = [
        "| ResNet | precision | bare loop, images/s | trainer, images/s | with loading, images/s | trainer ÷ bare "
        "| loading ÷ bare |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        medians, cells = {}, []
        for mode in MODES:
            rates = row[mode]
            assert isinstance(rates, list)
            medians[mode] = statistics.median(rates)
            cells.append(f"{medians[mode]:.1f} ({min(rates):.1f}–{max(rates):.1f})")
        ratios = [f"{medians[mode] / medians['bare']:.2f}" for mode in ("engine", "loaded")]
        lines.append(f"| {row['depth']} | {row['precision']} | {' | '.join(cells + ratios)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.training", description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=3, help="(default: 3)")
    parser.add_argument("--seconds", type=float, default=6, help="at least, per measurement (default: 6)")
    parser.add_argument("--json", type=Path, help="also write the rows and the machine to this file")
    args = parser.parse_args()
    machine = describe()
    rows, cost = measure(args.rounds, args.seconds)
    print("\n".join(f"{name}: {value}" for name, value in machine.items()))
    print(f"batches of {BATCH}; JPEGs of {SIZE[0]}x{SIZE[1]}; medians of {args.rounds} rounds (lowest–highest)")
    print(f"reading, decoding and augmenting: {1000 * cost:.2f} CPU-ms per image\n")
    print(table(rows))
    if args.json:
        save(args.json, machine=machine, rounds=args.rounds, loading_cpu_s=cost, rows=rows)


if __name__ == "__main__":
    main()
