"""How much of the machine HTTP leaves: images/s over HTTP beside the in-process limit, measured in one run.

The limit is cores / (CPU-seconds per image of decoding + CPU-seconds per image of the engine), each measured alone,
the engine at its best batch size. Models, providers and connection counts alternate, round after round; medians count.

    python -m benchmarks.http [--rounds 3] [--seconds 6] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from tqdm import tqdm

from benchmarks import wrk
from benchmarks.machine import describe, save
from benchmarks.photo import photo
from model_export.publish import publish
from model_export.random_weights import random_weights
from service.card import Architecture, ModelCard, published
from service.engine import load_engine
from service.imaging import decode
from service.providers import ProviderName, ProviderUnavailable, usable_cores

DEPTHS = (18, 50)
PROVIDERS: tuple[ProviderName, ...] = ("cpu", "openvino")
CONNECTIONS = (1, 8, 32)
BATCH_SIZES = (1, 2, 4, 8)
CACHE = Path(".cache/benchmark-models")


def models(root: Path) -> None:
    """Publishes what is missing: random weights cost as much as trained ones."""
    there = {entry.name for entry in published(root)}
    for depth in DEPTHS:
        if f"resnet{depth}" not in there:
            publish(random_weights(Architecture(depth=depth)), root)


def decode_cost(image: bytes, card: ModelCard, seconds: float) -> float:
    """CPU-seconds per image of bytes -> pixels, on one thread."""
    decode(image, card.preprocessing, max_pixels=10**9)
    count, cpu, end = 0, time.process_time(), time.perf_counter() + seconds
    while time.perf_counter() < end:
        decode(image, card.preprocessing, max_pixels=10**9)
        count += 1
    return (time.process_time() - cpu) / count


def engine_cost(root: Path, depth: int, provider: ProviderName, image: bytes, seconds: float) -> dict[str, float]:
    """CPU-seconds per image of the engine alone, by batch size. In a process of its own, as the service is one."""
    program = "import sys; from benchmarks.http import measure_engine; measure_engine(*sys.argv[1:])"
    command = [sys.executable, "-c", program, str(root), str(depth), provider, str(seconds)]
    output = subprocess.run(command, input=image, check=True, capture_output=True).stdout
    found: dict[str, float] = json.loads(output)
    return found


def measure_engine(root: str, depth: str, provider: ProviderName, seconds: str) -> None:
    """Prints what `engine_cost` returns, in JSON."""
    folder = Path(root) / f"resnet{depth}" / "1"
    card = ModelCard.read(folder)
    cores = usable_cores()
    engine = load_engine(folder, card, provider=provider, threads=cores, max_batch=max(BATCH_SIZES))
    pixels = decode(sys.stdin.buffer.read(), card.preprocessing, max_pixels=10**9).pixels
    found = {}
    for size in BATCH_SIZES:
        batch = np.repeat(pixels[None], size, axis=0)
        engine.infer(batch)
        count, cpu, end = 0, time.process_time(), time.perf_counter() + float(seconds) / len(BATCH_SIZES)
        while time.perf_counter() < end:
            engine.infer(batch)
            count += size
        found[str(size)] = (time.process_time() - cpu) / count
    print(json.dumps(found))


@contextmanager
def service(root: Path, depth: int, provider: ProviderName) -> Iterator[tuple[str, int]]:
    """`python -m service` with one model: its address and process id."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    options = {"models-dir": root, "models": f"resnet{depth}", "provider": provider, "port": port}
    arguments = [f"--{name}={value}" for name, value in options.items()]
    process = subprocess.Popen([sys.executable, "-m", "service", "--log-level=error", *arguments])
    url = f"http://127.0.0.1:{port}"
    try:
        while process.poll() is None:
            try:
                with urllib.request.urlopen(f"{url}/healthz/ready"):
                    break
            except OSError:
                time.sleep(0.05)
        else:
            raise ProviderUnavailable(f"the service did not start on {provider}")
        yield f"{url}/classify", process.pid
    finally:
        process.terminate()
        process.wait()


def cpu_seconds(pid: int) -> float:
    """User and system time of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100  # in ticks of 1/100 s


def resident_mb(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) / 1000


def measure(root: Path, rounds: int, seconds: int) -> list[dict[str, object]]:
    """All rounds; a row per model, provider and number of connections, of medians."""
    image = photo()
    samples: dict[tuple[int, ProviderName, str], list[float]] = defaultdict(list)
    steps = rounds * len(DEPTHS) * len(PROVIDERS)
    with tempfile.TemporaryDirectory() as folder, tqdm(total=steps, unit="setting") as bar:
        for _ in range(rounds):
            for depth in DEPTHS:
                card = ModelCard.read(root / f"resnet{depth}" / "1")
                for provider in PROVIDERS:
                    key = (depth, provider)
                    decoding = decode_cost(image, card, seconds / 3)
                    engine = engine_cost(root, depth, provider, image, seconds)
                    best = min(engine, key=lambda size: engine[size])
                    samples[*key, "decode_ms"].append(1000 * decoding)
                    samples[*key, "engine_ms"].append(1000 * engine[best])
                    samples[*key, "best_batch"].append(int(best))
                    limit = usable_cores() / (decoding + engine[best])
                    samples[*key, "limit"].append(limit)
                    with service(root, depth, provider) as (url, pid):
                        wrk.run(url, image, connections=8, seconds=2, folder=Path(folder))  # warm
                        for connections in CONNECTIONS:
                            cpu = cpu_seconds(pid)
                            load = wrk.run(url, image, connections=connections, seconds=seconds, folder=Path(folder))
                            cpu = cpu_seconds(pid) - cpu
                            for name, value in load._asdict().items():
                                samples[*key, f"{connections}.{name}"].append(value)
                            per_image = 1000 * cpu / (load.images_per_second * seconds)
                            samples[*key, f"{connections}.cpu_ms"].append(per_image)
                            samples[*key, f"{connections}.ratio"].append(load.images_per_second / limit)
                        samples[*key, "resident_mb"].append(resident_mb(pid))
                    bar.update()

    rows: list[dict[str, object]] = []
    for depth in DEPTHS:
        for provider in PROVIDERS:

            def median(name: str, key: tuple[int, ProviderName] = (depth, provider)) -> float:
                return statistics.median(samples[*key, name])

            for connections in CONNECTIONS:
                rates = samples[depth, provider, f"{connections}.images_per_second"]
                rows.append(
                    {
                        "depth": depth,
                        "provider": provider,
                        "connections": connections,
                        **{name: median(name) for name in ("decode_ms", "engine_ms", "best_batch", "limit")},
                        **{
                            name: median(f"{connections}.{name}")
                            for name in ("images_per_second", "ratio", "p50", "p95", "p99", "cpu_ms")
                        },
                        "lowest": min(rates),
                        "highest": max(rates),
                        "resident_mb": median("resident_mb"),
                    }
                )
    return rows


def table(rows: list[dict[str, object]]) -> str:
    """Markdown."""
    lines = [
        "| ResNet | provider | connections | images/s (lowest–highest) | limit | HTTP ÷ limit | p50 ms | p95 ms "
        "| p99 ms | CPU ms/image | decode ms | engine ms (batch) | RSS MB |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    lines += [
        "| {depth} | {provider} | {connections} | {images_per_second:.1f} ({lowest:.1f}–{highest:.1f}) | {limit:.1f} "
        "| {ratio:.2f} | {p50:.1f} | {p95:.1f} | {p99:.1f} | {cpu_ms:.1f} | {decode_ms:.2f} "
        "| {engine_ms:.2f} ({best_batch:.0f}) | {resident_mb:.0f} |".format_map(row)
        for row in rows
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.http", description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=6, help="of load at each number of connections")
    parser.add_argument("--json", type=Path, help="also write the rows and the machine here")
    args = parser.parse_args()
    models(CACHE)
    machine = describe()
    rows = measure(CACHE, args.rounds, args.seconds)
    print("\n".join(f"{name}: {value}" for name, value in machine.items()))
    print(f"one JPEG of {len(photo())} bytes, 500x375; wrk on the same machine; medians of {args.rounds} rounds\n")
    print(table(rows))
    if args.json:
        save(args.json, machine=machine, rounds=args.rounds, rows=rows)


if __name__ == "__main__":
    main()
