"""How much of the machine HTTP leaves: images/s over HTTP beside the in-process limit, measured in one run.

The limit is cores / (CPU-seconds per image of decoding + CPU-seconds per image of the engine), each measured alone,
the engine at its best batch size. On shared machines the speed of a core changes from one second to the next, so both
are measured again before and after every few seconds of load, and the load is compared with these. Settings and
connection counts alternate, round after round; medians count.

    python -m benchmarks.http [--rounds 2] [--seconds 5] [--json FILE] [--from FILE]
"""

from __future__ import annotations

import argparse
import json
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
from benchmarks.spread import medians, spread
from service.card import ModelCard, Preprocessing
from service.imaging import decode
from service.loading import load_engine
from service.providers import Compute, ProviderName, ProviderUnavailable, usable_cores

CONNECTIONS = (1, 8, 32)
BATCH_SIZES = (1, 2, 4, 8)
OPEN_LOOP = 0.7  # of the capacity: arrivals at random moments, none of which waits for an answer
OPEN_LOOP_SPANS = 4  # times as long as a closed loop: percentiles of random arrivals need many


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


class EngineAlone:
    """The engine in a process of its own, as the service is one; idle but for `measure`.

    Raises:
        ProviderUnavailable: this machine does not have the setting.
    """

    def __init__(self, folder: Path, setting: Setting) -> None:
        program = "import sys; from benchmarks.http import serve_measurements; serve_measurements(*sys.argv[1:])"
        command = [sys.executable, "-c", program, str(folder), *setting]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        if not self._process.stdout.readline():
            raise ProviderUnavailable("the engine does not start; the reason is above")

    def measure(self, size: int, seconds: float) -> tuple[float, float]:
        """CPU-seconds per image, and seconds per batch, of batches of this size."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(size, seconds, file=self._process.stdin, flush=True)
        cpu, wall = map(float, self._process.stdout.readline().split())
        return cpu, wall

    def close(self) -> None:
        self._process.communicate()


def serve_measurements(folder: str, provider: ProviderName, precision: Compute) -> None:
    """The other side of `EngineAlone`: a line on stdin for each measurement, a line on stdout for its result."""
    path = Path(folder)
    card = ModelCard.read(path)
    try:
        engine = load_engine(
            path, card, provider=provider, precision=precision, threads=usable_cores(), max_batch=max(BATCH_SIZES)
        )
    except ProviderUnavailable as error:
        sys.exit(str(error))
    pixels = decode(photo(), card.preprocessing, max_pixels=10**9).pixels
    print("ready", flush=True)
    for line in sys.stdin:
        size, seconds = int(line.split()[0]), float(line.split()[1])
        batch = np.repeat(pixels[None], size, axis=0)
        engine.infer(batch)
        batches, cpu, start = 0, time.process_time(), time.perf_counter()
        while time.perf_counter() < start + seconds:
            engine.infer(batch)
            batches += 1
        print((time.process_time() - cpu) / (batches * size), (time.perf_counter() - start) / batches, flush=True)


class Alone(NamedTuple):
    """Decoding and the engine alone, at one moment, in seconds."""

    decode_cpu: float
    engine_cpu: float  # per image, at the best batch size
    one_image: float  # decoding and a batch of one, from start to end

    @property
    def limit(self) -> float:
        """Images/s."""
        return usable_cores() / (self.decode_cpu + self.engine_cpu)


def alone(engine: EngineAlone, best: int) -> Alone:
    """Three seconds of measuring."""
    decode_cpu, decode_wall = decode_seconds(photo(), 0.5)
    engine_cpu, _ = engine.measure(best, 1.5)
    _, one = engine.measure(1, 1.0)
    return Alone(decode_cpu, engine_cpu, decode_wall + one)


def measure_setting(folder: Path, setting: Setting, seconds: int, cache: Path, seed: int) -> list[dict[str, float]]:
    """Two samples of one setting: times in milliseconds, rates per second, memory in MB.

    Raises:
        ProviderUnavailable: this machine does not have the setting.
    """
    options = options_of(folder, setting, cache)
    engine = EngineAlone(folder, setting)
    best = min(BATCH_SIZES, key=lambda size: engine.measure(size, 1.0)[0])
    samples = []
    with tempfile.TemporaryDirectory() as scratch, service(options) as running:
        model = running.model()
        wrk.run(running.url, photo(), connections=8, seconds=2, folder=Path(scratch))  # warm
        for _ in range(2):
            found = {"ready_s": running.ready_s, "best_batch": float(best)}
            before = alone(engine, best)
            for connections in CONNECTIONS:
                cpu = cpu_seconds(running.pid)
                load = wrk.run(running.url, photo(), connections=connections, seconds=seconds, folder=Path(scratch))
                cpu = cpu_seconds(running.pid) - cpu
                after = alone(engine, best)
                limit = (before.limit + after.limit) / 2
                found |= {f"{connections}.{name}": value for name, value in load._asdict().items()}
                found[f"{connections}.cpu_ms"] = 1000 * cpu / (load.images_per_second * seconds)
                found[f"{connections}.limit"] = limit
                found[f"{connections}.ratio"] = load.images_per_second / limit
                if connections == 1:
                    found["alone_ms"] = 1000 * (before.one_image + after.one_image) / 2
                    found["latency_ratio"] = load.p50 / found["alone_ms"]
                before = after
            found["decode_ms"] = 1000 * before.decode_cpu
            found["engine_ms"] = 1000 * before.engine_cpu
            capacity = found[f"{CONNECTIONS[-1]}.images_per_second"]
            rate, span, lanes = OPEN_LOOP * capacity, OPEN_LOOP_SPANS * seconds, model["lanes"]
            arrivals = open_loop.run(
                running.url, photo(), rate=rate, seconds=span, content_type="image/jpeg", seed=seed
            )
            if arrivals.failed:
                raise RuntimeError(f"{arrivals.failed} requests failed in the open loop")
            largest = model["batch_sizes"][-1]
            found["largest_batch"] = largest
            # under load every lane has its share of the cores
            found["largest_batch_ms"] = 1000 * engine.measure(largest, 1.0)[1] * lanes
            ideal = open_loop.ideal_latencies(
                open_loop.schedule(rate, span, seed), servers=lanes, service_s=lanes / capacity
            )
            found |= {"open.p50": arrivals.p50, "open.p99": arrivals.p99}
            found["open.ideal_p99"] = 1000 * open_loop.percentile(sorted(ideal), 99)
            found["open_ratio"] = arrivals.p99 / found["largest_batch_ms"]
            found["resident_mb"] = resident_mb(running.pid)
            samples.append(found)
    engine.close()
    return samples


def options_of(folder: Path, setting: Setting, cache: Path) -> dict[str, object]:
    """Of the service, to serve this model only."""
    return {"models-dir": folder.parent.parent, "models": folder.parent.name, **setting._asdict(), "cache-dir": cache}


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
                        with service(options_of(folder, setting, Path(cache))):
                            pass
                    found = measure_setting(folder, setting, seconds, Path(cache), seed=number)
                except ProviderUnavailable as error:
                    settings.remove(setting)
                    tqdm.write(f"left out: {' '.join(setting)}: {error}", file=sys.stderr)
                    continue
                by_name = samples.setdefault(setting, defaultdict(list))
                for sample in found:
                    for name, value in sample.items():
                        by_name[name].append(value)
                bar.update()
    return [
        {
            **setting._asdict(),
            **{name: spread(values) for name, values in by_name.items()},
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
        m = medians(row)
        for c in CONNECTIONS:
            rate = row[f"{c}.images_per_second"]
            lines.append(
                f"| {row['provider']} | {row['precision']} | {c} | {rate['median']:.1f} ({rate['lowest']:.1f}–"
                f"{rate['highest']:.1f}) | {m[f'{c}.limit']:.1f} | {m[f'{c}.ratio']:.2f} | {m[f'{c}.p50']:.1f} "
                f"| {m[f'{c}.p95']:.1f} | {m[f'{c}.p99']:.1f} | {m[f'{c}.cpu_ms']:.1f} |"
            )
    lines += [
        "",
        "| provider | precision | decode CPU ms | engine CPU ms (batch) | one connection: p50 ÷ alone "
        "| open loop at 70 %: p99 ms ÷ largest batch (images) | p99 ms of an ideal queue | start to ready s | RSS MB |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        m = medians(row)
        # results that were saved before it was computed have none
        ideal = f"{m['open.ideal_p99']:.0f}" if "open.ideal_p99" in m else "–"
        lines.append(
            f"| {row['provider']} | {row['precision']} | {m['decode_ms']:.2f} | {m['engine_ms']:.2f} "
            f"({m['best_batch']:.0f}) | {m['1.p50']:.1f} ÷ {m['alone_ms']:.1f}: {m['latency_ratio']:.2f} "
            f"| {m['open.p99']:.0f} ÷ {m['largest_batch_ms']:.0f} ({m['largest_batch']:.0f}): {m['open_ratio']:.1f} "
            f"| {ideal} | {m['ready_s']:.1f} | {m['resident_mb']:.0f} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.http", description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--seconds", type=int, default=5, help="of load at each number of connections")
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
    print(f"one JPEG of {len(photo())} bytes, 500x375; wrk on the same machine; medians of {2 * args.rounds} samples\n")
    print(table(rows))
    if args.json:
        save(args.json, machine=machine, rounds=args.rounds, rows=rows)


if __name__ == "__main__":
    main()
