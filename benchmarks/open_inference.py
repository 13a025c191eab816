"""What the Open Inference Protocol costs over the engine: decoded pixels in, probabilities out, both binary.

The service and the engine alone compute the same images in batches of the same size, on one thread. They are measured
in turn: the engine just before and just after each load, as the speed of shared machines changes. The differences of
all rounds count.

    python -m benchmarks.open_inference [--rounds 10] [--seconds 5] [--connections 4] [--images 1] [--precision int8]
                                        [--json FILE]
"""

from __future__ import annotations

import argparse
import functools
import json
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, get_args

import numpy as np
from tqdm import tqdm

from benchmarks import wrk
from benchmarks.machine import describe, heading, save
from benchmarks.models import published
from benchmarks.photo import photo
from benchmarks.processes import cpu_seconds
from benchmarks.serving import Running, model_options, service
from benchmarks.tables import markdown_table
from benchmarks.timing import cost
from service.runtime.choices import FilePrecision, ProviderName
from service.runtime.engine import Engine
from service.runtime.images.decoding import decode
from service.runtime.loading import load_engine
from service.runtime.model_card import Architecture
from service.runtime.model_folder import read_card

HEADER = "inference-header-content-length"
PROVIDER: ProviderName = "cpu"
RESAMPLES = 10_000
WARM_UP_S = 2
RESNET18 = Architecture(depth=18)  # the cheapest one with an input of 224 pixels: the difference is lost least in noise


class Round(NamedTuple):
    """CPU-milliseconds per image, measured one after the other."""

    service: float  # all processes
    engine: float  # alone; the mean of before and after

    @property
    def over(self) -> float:
        return self.service - self.engine


def infer_request(pixels: np.ndarray) -> tuple[bytes, dict[str, str]]:
    """The body of a request for these pixels, uint8 `(N, channels, height, width)`, and its headers."""
    image = {"name": "image", "shape": pixels.shape, "datatype": "UINT8"}
    outputs = [{"name": "probabilities", "parameters": {"binary_data": True}}]
    said = {"inputs": [{**image, "parameters": {"binary_data_size": pixels.nbytes}}], "outputs": outputs}
    head = json.dumps(said).encode()
    return head + pixels.tobytes(), {HEADER: str(len(head))}


def service_cpu(running: Running, name: str, pixels: np.ndarray, connections: int, seconds: int) -> float:
    """CPU-milliseconds per image of the service under load. Raises RuntimeError if a request failed."""
    body, headers = infer_request(pixels)
    before = cpu_seconds(running.pids())
    found = wrk.summary(
        f"{running.root}/v2/models/{name}/infer",
        body,
        content_type="application/octet-stream",
        connections=connections,
        seconds=seconds,
        headers=headers,
    )
    if found.failed or not found.requests:
        raise RuntimeError(f"{found.failed} requests failed, {found.requests} were answered")
    return 1000 * (cpu_seconds(running.pids()) - before) / (found.requests * len(pixels))


def measure(
    folder: Path, precision: FilePrecision, rounds: int, seconds: int, connections: int, images: int
) -> list[Round]:
    """
    Args:
        images: in each request, and in each batch.
    """
    card = read_card(folder)
    pixels = decode(photo(), card.preprocessing, max_pixels=10**9).pixels
    pixels = np.repeat(pixels[None], images, axis=0)
    engine = load_engine(folder, card, provider=PROVIDER, precision=precision, threads=1, max_batch=images)
    options = {"provider": PROVIDER, "precision": precision, "engine-threads": 1, "max-batch": images}
    found = []
    with (
        tempfile.TemporaryDirectory() as cache,
        service(model_options(folder) | options | {"cache-dir": cache}) as running,
    ):
        service_cpu(running, card.name, pixels, connections, WARM_UP_S)
        before = engine_cpu(engine, pixels, seconds)
        for _ in tqdm(range(rounds), unit="round"):
            loaded = service_cpu(running, card.name, pixels, connections, seconds)
            after = engine_cpu(engine, pixels, seconds)
            found.append(Round(loaded, (before + after) / 2))
            before = after
    return found


def engine_cpu(engine: Engine, pixels: np.ndarray, seconds: float) -> float:
    """CPU-milliseconds per image of the engine alone."""
    return 1000 * cost(functools.partial(engine.infer, pixels), seconds / 2).cpu_s / len(pixels)


def interval(values: Sequence[float]) -> tuple[float, float]:
    """The 95 % interval of the mean: a percentile bootstrap (Efron and Tibshirani 1993) with a fixed seed."""
    resamples = np.random.default_rng(0).choice(np.asarray(values), (RESAMPLES, len(values)))
    low, high = np.percentile(resamples.mean(axis=1), [2.5, 97.5])
    return float(low), float(high)


def table(rounds: Sequence[Round]) -> str:
    over = [each.over for each in rounds]
    low, high = interval(over)
    figures = [statistics.mean(values) for values in ([r.service for r in rounds], [r.engine for r in rounds], over)]
    titles = ["service, CPU-ms/image", "engine alone", "over the engine, mean", "median", "95 %"]
    cells = [*(f"{figure:.3f}" for figure in figures), f"{statistics.median(over):.3f}", f"{low:.3f}–{high:.3f}"]
    return markdown_table(titles, [cells])


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.open_inference", description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=10, help="(default: 10)")
    parser.add_argument("--seconds", type=int, default=5, help="of each load (default: 5)")
    parser.add_argument("--connections", type=int, default=4, help="(default: 4)")
    parser.add_argument("--images", type=int, default=1, help="in each request (default: 1)")
    parser.add_argument("--precision", choices=get_args(FilePrecision), default="int8", help="(default: %(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also save the rounds and the machine here")
    args = parser.parse_args()
    folder = published(RESNET18, args.precision)
    machine = describe()
    rounds = measure(folder, args.precision, args.rounds, args.seconds, args.connections, args.images)
    print(heading(machine))
    print(
        f"{RESNET18.name}, {args.precision}, {args.rounds} rounds of {args.seconds} s, {args.connections} connections, "
        f"{args.images} images a request\n"
    )
    print(table(rounds))
    if args.json:
        save(args.json, machine=machine, images_per_request=args.images, rounds=[each._asdict() for each in rounds])


if __name__ == "__main__":
    main()
