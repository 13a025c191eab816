"""A GPU: images/s of the engine beside PyTorch's compiled fp16, and over HTTP beside what the host's cores can decode.

On a GPU decoding is what limits the service: its goal is 0.85 of the images/s that all cores decode when they do
nothing else, which is measured before and after each load. The engine and PyTorch compute the same network from the
same uint8 images in host memory, with the copy to the GPU, normalisation and the copy of the logits back; PyTorch also
with images that are on the GPU already. Everything alternates, round after round; medians count.

Compiling for all batch sizes takes minutes; PyTorch keeps what it has compiled in its cache, for the next run too.

    python -m benchmarks.gpu [--workers 1 8] [--batch-sizes 1 8 64] [--compile none] [--rounds 3] [--json FILE]
"""

from __future__ import annotations

import argparse
import functools
import multiprocessing
import os
import shutil
import sys
import tempfile
import time
from collections import defaultdict, deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.pool import Pool
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
from tqdm import tqdm

from benchmarks.closed_loop import closed_loop
from benchmarks.machine import describe, save
from benchmarks.serving import children, cpu_seconds, service
from benchmarks.spread import medians, spread
from service.card import Architecture, ModelCard, Preprocessing, published
from service.engine import LARGEST, Engine, SelfTestFailed, load_engine
from service.imaging import COMPILED, decode
from service.providers import Compute, ProviderUnavailable, require, usable_cores
from service.tuning import powers_of_two

# PyTorch, and what needs it, is imported where it is used: processes that only decode would wait seconds for it.
if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from model_export.weights import Loaded

Device = Literal["cuda", "cpu"]
CompileMode = Literal["max-autotune", "default", "none"]

# What is compared; the service and PyTorch compute in the last.
PRECISIONS: dict[Device, tuple[Compute, ...]] = {"cuda": ("fp32", "fp16"), "cpu": ("fp32",)}

GOAL = 0.85  # HTTP ÷ decode capacity
IN_FLIGHT = 2  # batches that PyTorch is given before the first is waited for, as our engine has two lanes
WARM = 3  # steps before those that count: compiles, fills what is in flight, records CUDA graphs
STARTUP_S = 120  # until all processes have imported what they need


class Plan(NamedTuple):
    """What to measure, and for how long."""

    device: Device
    depth: int
    batch_sizes: tuple[int, ...]
    compile: CompileMode
    workers: tuple[int, ...]
    connections: tuple[int, ...]
    rounds: int
    seconds: float  # of an engine at one batch size, and of decoding
    load_seconds: int  # at one number of connections


def per_second(step: Callable[[], object], seconds: float) -> float:
    """How often a step runs in a second, at least once."""
    for _ in range(WARM):
        step()
    count, start = 0, time.perf_counter()
    while not count or time.perf_counter() < start + seconds:
        step()
        count += 1
    return count / (time.perf_counter() - start)


# Over HTTP


def decode_rate(jpeg: bytes, seconds: float) -> float:
    """Images/s that one core decodes."""
    preprocessing = Preprocessing()
    return per_second(lambda: decode(jpeg, preprocessing, max_pixels=10**9), seconds)


def decode_capacity(pool: Pool, jpeg: bytes, seconds: float) -> float:
    """Images/s that all cores decode, with a process on each."""
    return sum(pool.starmap(decode_rate, [(jpeg, seconds)] * usable_cores(), chunksize=1))


def measure_http(folder: Path, plan: Plan) -> list[dict[str, Any]]:
    """The service under load, and the decode capacity around it. Times in milliseconds, rates in images/s.

    Raises:
        ProviderUnavailable: the service does not start.
        RuntimeError: a request failed.
    """
    from benchmarks.photo import photo

    jpeg = photo()
    found: dict[tuple[int, int], dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    context = multiprocessing.get_context("spawn")
    ready = context.Barrier(usable_cores() + 1)
    with (
        tempfile.TemporaryDirectory() as cache,
        context.Pool(usable_cores(), ready.wait, (STARTUP_S,)) as pool,
        tqdm(total=plan.rounds * len(plan.workers), unit="service", desc="HTTP") as bar,
    ):
        ready.wait(STARTUP_S)
        for _ in range(plan.rounds):
            for workers in plan.workers:
                with service(options_of(folder, plan, workers, cache)) as running:
                    closed_loop(pool, running.url, jpeg, max(plan.connections), 1)  # warm
                    before = decode_capacity(pool, jpeg, plan.seconds)
                    for connections in plan.connections:
                        cpu = _service_cpu_seconds(running.pid)
                        load, load_cpu = closed_loop(pool, running.url, jpeg, connections, plan.load_seconds)
                        cpu = _service_cpu_seconds(running.pid) - cpu
                        after = decode_capacity(pool, jpeg, plan.seconds)
                        capacity = (before + after) / 2
                        requests = load.images_per_second * plan.load_seconds
                        sample = load._asdict() | {
                            "decode_capacity": capacity,
                            "ratio": load.images_per_second / capacity,
                            "cpu_ms": 1000 * cpu / requests,
                            "load_cpu_ms": 1000 * load_cpu / requests,
                        }
                        for name, value in sample.items():
                            found[workers, connections][name].append(value)
                        before = after
                bar.update()
    return [
        {"workers": workers, "connections": connections} | {name: spread(values) for name, values in by_name.items()}
        for (workers, connections), by_name in sorted(found.items())
    ]


def options_of(folder: Path, plan: Plan, workers: int, cache: str) -> dict[str, object]:
    """Of the service, to serve this model only."""
    return {
        "models-dir": folder.parent.parent,
        "models": folder.parent.name,
        "provider": plan.device,
        "precision": PRECISIONS[plan.device][-1],
        "workers": workers,
        "max-queue": max(256, *plan.connections),
        "cache-dir": cache,
    }


def _service_cpu_seconds(pid: int) -> float:
    """User and system time of the service and its workers so far."""
    return sum(map(cpu_seconds, (pid, *children(pid))))


# The engine and PyTorch


class Way(NamedTuple):
    """One way to compute a batch of uint8 images."""

    name: str
    precision: Compute
    callers: int  # threads that each compute one batch after the other
    rate: Callable[[int, float], float]  # images in a batch, seconds to measure -> images/s


class Compiled(NamedTuple):
    """What `torch.compile` made, in which mode; and why not in others."""

    mode: CompileMode
    forward: Callable[[Tensor], Tensor] | None
    seconds: float  # that it took, for all batch sizes
    failed: dict[str, str]  # by mode


def batch_of(pixels: np.ndarray, size: int) -> np.ndarray:
    """One image `(3, H, W)`, `size` times: uint8 `(size, 3, H, W)`."""
    return np.repeat(pixels[None], size, axis=0)


def engine_ways(folder: Path, plan: Plan, pixels: np.ndarray) -> list[Way]:
    """Our engine in each precision, with one caller and with one for each lane. Raises ProviderUnavailable."""
    ways = []
    for precision in PRECISIONS[plan.device]:
        engine = load_engine(
            folder,
            ModelCard.read(folder),
            provider=plan.device,
            precision=precision,
            threads=usable_cores(),
            lanes=usable_cores(),
            max_batch=max(plan.batch_sizes),
        )
        for callers in sorted({1, engine.lanes}):
            rate = functools.partial(engine_rate, engine, pixels, callers)
            ways.append(Way("engine", precision, callers, rate))
    return ways


def engine_rate(engine: Engine, pixels: np.ndarray, callers: int, size: int, seconds: float) -> float:
    """Images/s."""
    batch = batch_of(pixels, size)

    def call(_: int) -> float:
        return per_second(lambda: engine.infer(batch, alone=callers == 1), seconds)

    with ThreadPoolExecutor(callers) as pool:
        return size * sum(pool.map(call, range(callers)))


def torch_ways(loaded: Loaded, plan: Plan, pixels: np.ndarray) -> tuple[list[Way], Compiled]:
    """PyTorch in half precision (on a CPU in fp32), channels_last: eager, compiled, and without any copies."""
    import torch

    from model_export.normalise import Normalise

    precision = PRECISIONS[plan.device][-1]
    dtype = {"fp32": torch.float32, "fp16": torch.float16}[precision]
    torch.backends.cudnn.benchmark = True  # the fastest of cuDNN's algorithms for each shape, in eager mode
    net = loaded.net.to(plan.device, dtype)
    net = net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    normalise = Normalise(loaded.preprocessing).to(plan.device)

    def eager(images: Tensor) -> Tensor:
        return net(normalise(images).to(dtype, memory_format=torch.channels_last))  # type: ignore[no-any-return]

    def way(name: str, forward: Callable[[Tensor], Tensor], *, copied: bool = True) -> Way:
        @torch.inference_mode()
        def rate(size: int, seconds: float) -> float:
            return size * per_second(torch_step(forward, batch_of(pixels, size), plan.device, copied), seconds)

        return Way(name, precision, 1, rate)

    compiled = compile_for(eager, plan, pixels)
    ways: dict[str, Callable[[Tensor], Tensor]] = {"PyTorch eager": eager}
    if compiled.forward:
        ways["PyTorch compiled"] = compiled.forward
    fastest = list(ways)[-1]
    there = way(f"{fastest}, images on the device", ways[fastest], copied=False)
    return [*(way(name, forward) for name, forward in ways.items()), there], compiled


def torch_step(
    forward: Callable[[Tensor], Tensor], batch: np.ndarray, device: Device, copied: bool
) -> Callable[[], None]:
    """Computes a batch, and waits for the one that was given `IN_FLIGHT` steps before. In inference mode.

    Args:
        copied: whether images come from pinned host memory and logits go back there; else both stay on the device.
    """
    import torch

    images = torch.from_numpy(batch)
    resident = images.to(device)

    def compute() -> None:
        forward(resident)

    if device == "cpu":
        return compute
    pinned = images.pin_memory()
    there = forward(resident)
    logits = torch.empty(there.shape, dtype=there.dtype, pin_memory=True)
    in_flight: deque[torch.cuda.Event] = deque()

    def step() -> None:
        if copied:
            logits.copy_(forward(pinned.to(device, non_blocking=True)), non_blocking=True)
        else:
            compute()
        event = torch.cuda.Event()  # type: ignore[no-untyped-call]
        event.record()
        in_flight.append(event)
        if len(in_flight) > IN_FLIGHT:
            in_flight.popleft().synchronize()

    return step


def compile_for(forward: Callable[[Tensor], Tensor], plan: Plan, pixels: np.ndarray) -> Compiled:
    """Compiles for every batch size in the mode that was asked for, or else in the default one."""
    import torch

    torch._dynamo.config.recompile_limit = 2 * len(plan.batch_sizes)  # one for each is needed
    failed: dict[str, str] = {}
    started = time.perf_counter()
    modes: list[CompileMode] = [] if plan.compile == "none" else list(dict.fromkeys((plan.compile, "default")))
    for mode in modes:
        torch.compiler.reset()
        # A whole graph for each shape: PyTorch must not go back to eager mode, or to shapes left open, in silence.
        compiled = torch.compile(forward, mode=mode, fullgraph=True, dynamic=False)
        try:
            with torch.inference_mode():
                for size in tqdm(plan.batch_sizes, unit="batch size", desc=f"compiling, {mode}"):
                    images = torch.from_numpy(batch_of(pixels, size)).to(plan.device)
                    for _ in range(WARM):
                        compiled(images)
        except Exception as error:  # whatever the compiler, or the compilers that it calls, raise
            failed[mode] = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
        else:
            return Compiled(mode, compiled, time.perf_counter() - started, failed)
    return Compiled("none", None, time.perf_counter() - started, failed)


def measure_engines(folder: Path, plan: Plan) -> tuple[list[dict[str, Any]], Compiled]:
    """All ways at all batch sizes, alternating. Raises ProviderUnavailable."""
    from benchmarks.photo import photo
    from model_export.random_weights import random_weights

    loaded = random_weights(Architecture(depth=plan.depth))
    pixels = decode(photo(), loaded.preprocessing, max_pixels=10**9).pixels
    from_torch, compiled = torch_ways(loaded, plan, pixels)
    ways = [*engine_ways(folder, plan, pixels), *from_torch]
    found: list[dict[int, list[float]]] = [defaultdict(list) for _ in ways]
    with tqdm(total=plan.rounds * len(plan.batch_sizes) * len(ways), desc="engines") as bar:
        for _ in range(plan.rounds):
            for size in plan.batch_sizes:
                for way, by_size in zip(ways, found, strict=True):
                    by_size[size].append(way.rate(size, plan.seconds))
                    bar.update()
    rows = [
        {
            "name": way.name,
            "precision": way.precision,
            "callers": way.callers,
            "images_per_second": {str(size): spread(values) for size, values in by_size.items()},
        }
        for way, by_size in zip(ways, found, strict=True)
    ]
    return rows, compiled


# The whole


def model_folder(depth: int) -> Path:
    """A published ResNet of random weights with an fp16 file, made on first use beside those of `benchmarks.models`.

    As there, any loss is allowed.
    """
    from benchmarks import models
    from model_export.publish import publish
    from model_export.quantise.images import open_parts
    from model_export.quantise.quantising import quantise
    from model_export.random_weights import random_weights

    root, architecture = models.CACHE.resolve(), Architecture(depth=depth)
    versions = [entry for entry in published(root) if entry.name == architecture.name]
    if not versions:
        publish(random_weights(architecture), root)
        versions = [entry for entry in published(root) if entry.name == architecture.name]
    latest = versions[-1]
    if "fp16" in ModelCard.read(latest.path).files:
        return latest.path
    card = quantise(latest, root, open_parts("drawings:train=1,val=8"), precision="fp16", limit=1.0)
    return root / card.name / str(card.version)


def require_cuda() -> dict[str, str]:
    """The GPU and its software. Raises ProviderUnavailable with the first thing that is missing."""
    import torch  # before the first session: ONNX Runtime finds CUDA and cuDNN where PyTorch has loaded them

    if not torch.cuda.is_available():
        raise ProviderUnavailable(
            f"PyTorch {torch.__version__} sees no GPU: run this where `nvidia-smi` shows one, with a build of PyTorch "
            "for its CUDA (https://pytorch.org/get-started/locally)"
        )
    require("cuda")
    folders = library_folders(Path("/proc/self/maps").read_text())
    os.environ["LD_LIBRARY_PATH"] = ":".join(filter(None, (os.environ.get("LD_LIBRARY_PATH"), *folders)))
    return {
        "gpu": torch.cuda.get_device_name(0),
        "cuda": str(torch.version.cuda),
        "cudnn": str(torch.backends.cudnn.version()),  # type: ignore[no-untyped-call]
    }


def library_folders(maps: str) -> list[str]:
    """Where a process has CUDA's libraries from, by its `/proc/PID/maps`: the service, without PyTorch, needs them too.

    It finds libraries that are installed beside ONNX Runtime by itself, and prefers those.
    """
    libraries = ("libcudart", "libcublas", "libcudnn", "libcufft", "libcurand", "libnvrtc")
    paths = [Path(line.split(maxsplit=5)[-1]) for line in maps.splitlines()]
    return sorted({str(path.parent) for path in paths if path.name.startswith(libraries)})


def cell(values: Mapping[str, float]) -> str:
    return f"{values['median']:.0f} ({values['lowest']:.0f}–{values['highest']:.0f})"


def http_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """In Markdown, and below it how far the best is from the goal."""
    lines = [
        "| workers | connections | images/s (lowest–highest) | all cores decode, images/s | HTTP ÷ decoding | p50 ms "
        "| p99 ms | service, CPU ms/image | load, CPU ms/image |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        m = medians(row)
        lines.append(
            f"| {row['workers']} | {row['connections']} | {cell(row['images_per_second'])} "
            f"| {cell(row['decode_capacity'])} | {m['ratio']:.2f} | {m['p50']:.1f} | {m['p99']:.1f} "
            f"| {m['cpu_ms']:.2f} | {m['load_cpu_ms']:.2f} |"
        )
    best = max(rows, key=lambda row: row["ratio"]["median"])
    ratio = best["ratio"]
    return "\n".join(
        [
            *lines,
            "",
            f"HTTP ÷ decoding, goal {GOAL}: at best {ratio['median']:.2f} ({ratio['lowest']:.2f}–"
            f"{ratio['highest']:.2f}), with --workers {best['workers']} and {best['connections']} connections.",
        ]
    )


def engine_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """In Markdown: images/s by batch size, and ours with all lanes busy beside PyTorch's."""
    sizes = list(rows[0]["images_per_second"])
    lines = [
        f"| images/s in batches of | precision | callers | {' | '.join(sizes)} |",
        f"|{'---|' * (3 + len(sizes))}",
    ]
    for row in rows:
        cells = " | ".join(cell(row["images_per_second"][size]) for size in sizes)
        lines.append(f"| {row['name']} | {row['precision']} | {row['callers']} | {cells} |")
    medians = {
        (row["name"], row["precision"]): [row["images_per_second"][size]["median"] for size in sizes] for row in rows
    }  # with as many callers as our engine has lanes: the last row of its precision
    for (name, precision), theirs in medians.items():
        if name != "engine" and (ours := medians.get(("engine", precision))):
            ratios = " | ".join(f"{a / b:.2f}" for a, b in zip(ours, theirs, strict=True))
            lines.append(f"| engine ÷ {name} | {precision} | | {ratios} |")
    return "\n".join(lines)


def compile_note(compiled: Mapping[str, Any]) -> str:
    """In one line: in which mode PyTorch was compiled, and why in no other."""
    mode, seconds = compiled["mode"], compiled["seconds"]
    note = "PyTorch not compiled" if mode == "none" else f"PyTorch compiled in mode {mode}, in {seconds:.0f} s"
    return note + "".join(f"; {mode} failed: {reason}" for mode, reason in compiled["failed"].items())


def read_plan(arguments: Sequence[str] | None) -> tuple[Plan, Path]:
    """What the command line asks for, and where results go."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__.partition("\n")[0])
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="cpu tries the program without a GPU")
    parser.add_argument("--depth", type=int, default=50, help="of the ResNet (default: 50)")
    sizes = powers_of_two(LARGEST["cuda"])
    parser.add_argument(
        "--batch-sizes", type=int, nargs="+", default=sizes, metavar="N", help="(default: 1 2 4 ... 64)"
    )
    parser.add_argument(
        "--compile", choices=("max-autotune", "default", "none"), default="max-autotune", help="mode of torch.compile"
    )
    workers = sorted({1, max(1, usable_cores() // 2)})
    parser.add_argument(
        "--workers",
        type=int,
        nargs="+",
        default=workers,
        metavar="N",
        help="of the service (default: 1, half the cores)",
    )
    parser.add_argument(
        "--connections", type=int, nargs="+", default=[32, 128, 256], metavar="N", help="(default: 32 128 256)"
    )
    parser.add_argument("--rounds", type=int, default=3, help="of which medians are taken (default: 3)")
    parser.add_argument("--seconds", type=float, default=0.5, help="of an engine at one batch size, and of decoding")
    parser.add_argument("--load-seconds", type=int, default=5, help="of load at each number of connections")
    parser.add_argument("--json", type=Path, default=Path("benchmarks/results/gpu.json"), help="where results go")
    args = parser.parse_args(arguments)
    plan = Plan(
        device=args.device,
        depth=args.depth,
        batch_sizes=tuple(args.batch_sizes),
        compile=args.compile,
        workers=tuple(args.workers),
        connections=tuple(args.connections),
        rounds=args.rounds,
        seconds=args.seconds,
        load_seconds=args.load_seconds,
    )
    return plan, args.json


def main(arguments: Sequence[str] | None = None) -> None:
    plan, path = read_plan(arguments)
    try:
        machine = describe() | (require_cuda() if plan.device == "cuda" else {})
        machine |= {
            "resampling": "compiled" if COMPILED else "Pillow",
            "load": "wrk" if shutil.which("wrk") else "ours",
        }
        print("\n".join(f"{name}: {value}" for name, value in machine.items()))
        print(f"ResNet-{plan.depth}, one JPEG of 500x375; medians of {plan.rounds} rounds (lowest–highest)\n")
        folder = model_folder(plan.depth)
        results: dict[str, Any] = {"machine": machine, "plan": plan._asdict(), "http": measure_http(folder, plan)}
        print(http_table(results["http"]) + "\n", flush=True)
        save(path, **results)  # compiling may take longer than the machine is ours
        rows, compiled = measure_engines(folder, plan)
    except (ProviderUnavailable, SelfTestFailed) as error:
        sys.exit(f"error: {error}")
    results |= {"engines": rows, "compiled": {name: v for name, v in compiled._asdict().items() if name != "forward"}}
    print(engine_table(rows))
    print(f"\n{compile_note(results['compiled'])}")
    save(path, **results)


if __name__ == "__main__":
    main()
