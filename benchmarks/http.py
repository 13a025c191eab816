"""How much of the machine HTTP leaves: images/s over HTTP beside the in-process limit, measured in one run.

The limit is cores / (CPU-seconds per image of decoding + CPU-seconds per image of the engine), each measured alone,
the engine at its best batch size. Settings and connection counts alternate, round after round; medians count.

    python -m benchmarks.http [--rounds 3] [--seconds 8] [--json FILE] [--from FILE]
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from benchmarks import open_loop, wrk
from benchmarks.machine import describe, save
from benchmarks.models import latest, resnet50
from benchmarks.photo import photo
from benchmarks.serving import cpu_seconds, resident_mb, service
from service.card import ModelCard, Preprocessing
from service.engine import load_engine
from service.imaging import decode
from service.providers import Compute, ProviderName, ProviderUnavailable, usable_cores

CONNECTIONS = (1, 8, 32)
BATCH_SIZES = (1, 2, 4, 8)
OPEN_LOOP = 0.7  # of the capacity: arrivals at random moments, none of which waits for an answer


class Setting(NamedTuple):
    """What the service is told to compute with."""

    provider: ProviderName
    precision: Compute


SETTINGS = (
    Setting("cpu", "fp32"),
    Setting("cpu", "int8"),
    Setting("openvino", "fp32"),
    Setting("openvino", "bf16"),
    Setting("openvino", "int8"),
)


def decode_seconds(image: bytes, seconds: float) -> tuple[float, float]:
    """CPU-seconds and seconds per image of bytes -> pixels, on one thread."""
    preprocessing = Preprocessing()
    decode(image, preprocessing, max_pixels=10**9)
    count, cpu, start = 0, time.process_time(), time.perf_counter()
    while time.perf_counter() < start + seconds:
        decode(image, preprocessing, max_pixels=10**9)
        count += 1
    return (time.process_time() - cpu) / count, (time.perf_counter() - start) / count


def engine_seconds(folder: Path, setting: Setting, image: bytes, seconds: float) -> dict[str, list[float]]:
    """CPU-seconds per image, and seconds per batch, of the engine alone, by batch size.

    In a process of its own, as the service is one.

    Raises:
        ProviderUnavailable: this machine does not have the setting.
    """
    program = "import sys; from benchmarks.http import measure_engine; measure_engine(*sys.argv[1:])"
    command = [sys.executable, "-c", program, str(folder), *setting, str(seconds)]
    finished = subprocess.run(command, input=image, capture_output=True, check=False)
    if finished.returncode:
        raise ProviderUnavailable(finished.stderr.decode().strip().splitlines()[-1])
    found: dict[str, list[float]] = json.loads(finished.stdout)
    return found


def measure_engine(folder: str, provider: ProviderName, precision: Compute, seconds: str) -> None:
    """Prints what `engine_seconds` returns, in JSON."""
    path = Path(folder)
    card = ModelCard.read(path)
    engine = load_engine(
        path, card, provider=provider, precision=precision, threads=usable_cores(), max_batch=max(BATCH_SIZES)
    )
    pixels = decode(sys.stdin.buffer.read(), card.preprocessing, max_pixels=10**9).pixels
    found = {}
    for size in BATCH_SIZES:
        batch = np.repeat(pixels[None], size, axis=0)
        engine.infer(batch)
        batches, cpu, start = 0, time.process_time(), time.perf_counter()
        while time.perf_counter() < start + float(seconds) / len(BATCH_SIZES):
            engine.infer(batch)
            batches += 1
        found[str(size)] = [
            (time.process_time() - cpu) / (batches * size),
            (time.perf_counter() - start) / batches,
        ]
    print(json.dumps(found))


def measure_setting(folder: Path, setting: Setting, seconds: int, cache: Path, seed: int) -> dict[str, float]:
    """One round of one setting: times in milliseconds, rates per second, memory in MB.

    Raises:
        ProviderUnavailable: this machine does not have the setting.
    """
    image = photo()
    decode_cpu, decode_wall = decode_seconds(image, seconds / 4)
    engine = engine_seconds(folder, setting, image, seconds)
    best = min(engine, key=lambda size: engine[size][0])
    limit = usable_cores() / (decode_cpu + engine[best][0])
    found = {
        "decode_ms": 1000 * decode_cpu,
        "engine_ms": 1000 * engine[best][0],
        "best_batch": float(best),
        "limit": limit,
        "alone_ms": 1000 * (decode_wall + engine["1"][1]),
    }
    options = {
        "models-dir": folder.parent.parent,
        "models": folder.parent.name,
        **setting._asdict(),
        "cache-dir": cache,
    }
    with tempfile.TemporaryDirectory() as scratch, service(options) as running:
        found["ready_s"] = running.ready_s
        largest = running.model()["tuning"]["images_per_second"]
        size = running.model()["batch_sizes"][-1]
        found["largest_batch"] = size
        found["largest_batch_ms"] = 1000 * size * running.model()["lanes"] / largest[str(size)]
        wrk.run(running.url, image, connections=8, seconds=2, folder=Path(scratch))  # warm
        for connections in CONNECTIONS:
            cpu = cpu_seconds(running.pid)
            load = wrk.run(running.url, image, connections=connections, seconds=seconds, folder=Path(scratch))
            cpu = cpu_seconds(running.pid) - cpu
            found |= {f"{connections}.{name}": value for name, value in load._asdict().items()}
            found[f"{connections}.cpu_ms"] = 1000 * cpu / (load.images_per_second * seconds)
            found[f"{connections}.ratio"] = load.images_per_second / limit
        capacity = max(found[f"{connections}.images_per_second"] for connections in CONNECTIONS)
        arrivals = open_loop.run(
            running.url, image, rate=OPEN_LOOP * capacity, seconds=2 * seconds, content_type="image/jpeg", seed=seed
        )
        if arrivals.failed:
            raise RuntimeError(f"{arrivals.failed} requests failed in the open loop")
        found |= {"open.p50": arrivals.p50, "open.p99": arrivals.p99}
        found["resident_mb"] = resident_mb(running.pid)
    return found


def measure(folder: Path, rounds: int, seconds: int) -> list[dict[str, Any]]:
    """All rounds; for each setting the median, the lowest and the highest of every figure."""
    samples: dict[Setting, dict[str, list[float]]] = {}
    settings = list(SETTINGS)
    with tempfile.TemporaryDirectory() as cache, tqdm(total=rounds * len(settings), unit="setting") as bar:
        for number in range(rounds):
            for setting in tuple(settings):
                bar.set_description(" ".join(setting))
                try:
                    # the first start tunes; the one that is timed remembers
                    if number == 0:
                        with service({"models-dir": folder.parent.parent, **setting._asdict(), "cache-dir": cache}):
                            pass
                    found = measure_setting(folder, setting, seconds, Path(cache), seed=number)
                except ProviderUnavailable as error:
                    settings.remove(setting)
                    tqdm.write(f"left out: {' '.join(setting)}: {error}", file=sys.stderr)
                    continue
                by_name = samples.setdefault(setting, defaultdict(list))
                for name, value in found.items():
                    by_name[name].append(value)
                bar.update()
    return [
        {
            **setting._asdict(),
            **{
                name: {"median": statistics.median(values), "lowest": min(values), "highest": max(values)}
                for name, values in by_name.items()
            },
        }
        for setting, by_name in samples.items()
    ]


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Two tables in Markdown: by connections, and what holds for a setting as a whole."""
    lines = [
        "| provider | precision | connections | images/s (lowest–highest) | limit | HTTP ÷ limit | p50 ms | p95 ms "
        "| p99 ms | CPU ms/image |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        m = {name: value["median"] for name, value in row.items() if isinstance(value, dict)}
        for c in CONNECTIONS:
            rate = row[f"{c}.images_per_second"]
            lines.append(
                f"| {row['provider']} | {row['precision']} | {c} | {rate['median']:.1f} ({rate['lowest']:.1f}–"
                f"{rate['highest']:.1f}) | {m['limit']:.1f} | {m[f'{c}.ratio']:.2f} | {m[f'{c}.p50']:.1f} "
                f"| {m[f'{c}.p95']:.1f} | {m[f'{c}.p99']:.1f} | {m[f'{c}.cpu_ms']:.1f} |"
            )
    lines += [
        "",
        "| provider | precision | decode CPU ms | engine CPU ms (batch) | one connection: p50 ÷ alone "
        "| open loop at 70 %: p99 ms ÷ largest batch | start to ready s | RSS MB |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        m = {name: value["median"] for name, value in row.items() if isinstance(value, dict)}
        lines.append(
            f"| {row['provider']} | {row['precision']} | {m['decode_ms']:.2f} | {m['engine_ms']:.2f} "
            f"({m['best_batch']:.0f}) | {m['1.p50']:.1f} ÷ {m['alone_ms']:.1f} = {m['1.p50'] / m['alone_ms']:.2f} "
            f"| {m['open.p99']:.0f} ÷ {m['largest_batch_ms']:.0f} = {m['open.p99'] / m['largest_batch_ms']:.1f} "
            f"| {m['ready_s']:.1f} | {m['resident_mb']:.0f} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.http", description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=8, help="of load at each number of connections")
    parser.add_argument("--json", type=Path, help="also write the rows and the machine here")
    parser.add_argument("--from", type=Path, dest="source", help="print the results of such a file, measure nothing")
    args = parser.parse_args()
    if args.source:
        print(table(json.loads(args.source.read_text())["rows"]))
        return
    folder = latest(resnet50())
    machine = describe()
    rows = measure(folder, args.rounds, args.seconds)
    print("\n".join(f"{name}: {value}" for name, value in machine.items()))
    print(f"one JPEG of {len(photo())} bytes, 500x375; wrk on the same machine; medians of {args.rounds} rounds\n")
    print(table(rows))
    if args.json:
        save(args.json, machine=machine, rounds=args.rounds, rows=rows)


if __name__ == "__main__":
    main()
