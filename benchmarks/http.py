"""How much of the machine is left after HTTP: images/s over HTTP beside the in-process limit.

The limit is cores ÷ (CPU-seconds per image of decoding + CPU-seconds per image of the engine), each measured alone, the
engine at its best batch size. On shared machines the speed of a core changes from one second to the next. So both are
measured just before and just after every load, and the load is compared with those. Settings and numbers of connections
alternate, round after round; medians count.

    python -m benchmarks.http [--rounds 2] [--seconds 5] [--json FILE] [--from FILE]
"""

from __future__ import annotations

import argparse
import functools
import json
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from benchmarks import open_loop, wrk
from benchmarks.machine import describe, heading, save
from benchmarks.models import RESNET50, published
from benchmarks.photo import photo
from benchmarks.processes import resident_mb
from benchmarks.serving import model_options, service
from benchmarks.tables import markdown_table, medians, spread, with_range
from benchmarks.timing import cost
from service.bench.open_loop import schedule
from service.bench.requests import percentile
from service.runtime.choices import Precision, ProviderName
from service.runtime.images.decoding import decode
from service.runtime.loading import load_engine
from service.runtime.machine import usable_cores
from service.runtime.model_folder import read_card
from service.runtime.preprocessing import Preprocessing
from service.runtime.providers import ProviderUnavailable

CONNECTIONS = (1, 8, 32)
BATCH_SIZES = (1, 2, 4, 8)
OPEN_LOOP = 0.7  # rate of the open loop, as a fraction of the rate in the closed loop
OPEN_LOOP_TIMES = 4  # as long as a closed loop: percentiles of random arrivals need many requests


class Setting(NamedTuple):
    """Where and how the service computes."""

    provider: ProviderName
    precision: Precision


SETTINGS = (
    Setting("cpu", "fp32"),
    Setting("cpu", "int8"),
    Setting("openvino", "fp32"),
    Setting("openvino", "bf16"),
    Setting("openvino", "int8"),
)


CONNECTION_TITLES = (
    "provider",
    "precision",
    "connections",
    "images/s (lowest–highest)",
    "limit",
    "HTTP ÷ limit",
    "p50 ms",
    "p95 ms",
    "p99 ms",
    "CPU ms/image",
)
SETTING_TITLES = (
    "provider",
    "precision",
    "decode CPU ms",
    "engine CPU ms (batch)",
    "one connection: p50 ÷ alone",
    "open loop at 70 %: p99 ms ÷ largest batch (images)",
    "p99 ms of an ideal queue",
    "start to ready s",
    "RSS MB",
)


class EngineAlone:
    """The engine without HTTP, in a process of its own that is idle except in `measure`.

    Raises:
        ProviderUnavailable: this machine cannot compute in this setting.
    """

    def __init__(self, folder: Path, setting: Setting) -> None:
        program = "import sys; from benchmarks.http import serve_measurements; serve_measurements(*sys.argv[1:])"
        command = [sys.executable, "-c", program, str(folder), *setting]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        if not self._process.stdout.readline():
            raise ProviderUnavailable("the engine does not start, for the reason above")

    def measure(self, size: int, seconds: float) -> tuple[float, float]:
        """CPU-seconds per image and seconds per batch, in batches of this size."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(size, seconds, file=self._process.stdin, flush=True)
        cpu, wall = map(float, self._process.stdout.readline().split())
        return cpu, wall

    def close(self) -> None:
        self._process.communicate()


def serve_measurements(folder: str, provider: ProviderName, precision: Precision) -> None:
    """The child process of `EngineAlone`: reads a line of stdin for each measurement, answers with a line on stdout."""
    path = Path(folder)
    card = read_card(path)
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
        cpu, wall = cost(functools.partial(engine.infer, batch), seconds)
        print(cpu / size, wall, flush=True)


class Alone(NamedTuple):
    """Decoding and the engine, each measured alone at one moment, in seconds."""

    decode_cpu: float
    engine_cpu: float  # per image, at the best batch size
    one_image: float  # wall time of decoding and a batch of one

    @property
    def limit(self) -> float:
        """The in-process limit, in images/s."""
        return usable_cores() / (self.decode_cpu + self.engine_cpu)


def alone(engine: EngineAlone, best: int) -> Alone:
    """Measures for three seconds."""
    decoding = cost(lambda: decode(photo(), Preprocessing(), max_pixels=10**9), 0.5)
    engine_cpu, _ = engine.measure(best, 1.5)
    _, one_batch = engine.measure(1, 1.0)
    return Alone(decoding.cpu_s, engine_cpu, decoding.wall_s + one_batch)


def measure_setting(folder: Path, setting: Setting, seconds: int, cache: Path, seed: int) -> list[dict[str, float]]:
    """Two samples of one setting: times in milliseconds, rates per second, memory in MB.

    Raises:
        ProviderUnavailable: this machine cannot compute in this setting.
    """
    engine = EngineAlone(folder, setting)
    best = min(BATCH_SIZES, key=lambda size: engine.measure(size, 1.0)[0])
    samples = []
    with service(options_of(folder, setting, cache)) as running:
        model = running.model()
        wrk.run(running.url, photo(), connections=8, seconds=2)  # warm-up
        for _ in range(2):
            found = {"ready_s": running.ready_s, "best_batch": float(best)}
            before = alone(engine, best)
            for connections in CONNECTIONS:
                load, cpu_ms = running.loaded(photo(), connections=connections, seconds=seconds)
                after = alone(engine, best)
                limit = (before.limit + after.limit) / 2
                found |= {f"{connections}.{name}": value for name, value in load._asdict().items()}
                found[f"{connections}.cpu_ms"] = cpu_ms
                found[f"{connections}.limit"] = limit
                found[f"{connections}.ratio"] = load.images_per_second / limit
                if connections == 1:
                    found["alone_ms"] = 1000 * (before.one_image + after.one_image) / 2
                    found["latency_ratio"] = load.p50 / found["alone_ms"]
                before = after
            found["decode_ms"] = 1000 * before.decode_cpu
            found["engine_ms"] = 1000 * before.engine_cpu
            capacity = found[f"{CONNECTIONS[-1]}.images_per_second"]
            rate, span, lanes = OPEN_LOOP * capacity, OPEN_LOOP_TIMES * seconds, model["lanes"]
            arrivals = open_loop.run(
                running.url, photo(), rate=rate, seconds=span, content_type="image/jpeg", seed=seed
            )
            if arrivals.failed:
                raise RuntimeError(f"{arrivals.failed} requests failed in the open loop")
            largest = model["batch_sizes"][-1]
            found["largest_batch"] = largest
            # under load the lanes share the cores
            found["largest_batch_ms"] = 1000 * engine.measure(largest, 1.0)[1] * lanes
            ideal = open_loop.ideal_latencies(schedule(rate, span, seed), servers=lanes, service_s=lanes / capacity)
            found |= {"open.p50": arrivals.p50, "open.p99": arrivals.p99}
            found["open.ideal_p99"] = 1000 * percentile(sorted(ideal), 99)
            found["open_ratio"] = arrivals.p99 / found["largest_batch_ms"]
            found["resident_mb"] = resident_mb(running.pid)
            samples.append(found)
    engine.close()
    return samples


def options_of(folder: Path, setting: Setting, cache: Path) -> dict[str, object]:
    """Options of the service to serve this model only, in this setting."""
    return model_options(folder) | setting._asdict() | {"cache-dir": cache}


def measure(folder: Path, rounds: int, seconds: int) -> list[dict[str, Any]]:
    """Runs all rounds: the `spread` of every figure, a row for each setting."""
    samples: dict[Setting, dict[str, list[float]]] = {}
    settings = list(SETTINGS)
    with tempfile.TemporaryDirectory() as cache, tqdm(total=rounds * len(settings), unit="setting") as bar:
        for number in range(rounds):
            for setting in tuple(settings):
                bar.set_description(" ".join(setting))
                try:
                    if number == 0:  # tune before `measure_setting` times the start
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
        setting._asdict() | {name: spread(values) for name, values in by_name.items()}
        for setting, by_name in samples.items()
    ]


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Two tables in Markdown: figures by number of connections, and figures of a whole setting."""
    by_connections, by_setting = [], []
    for row in rows:
        m = medians(row)
        setting = [row["provider"], row["precision"]]
        for c in CONNECTIONS:
            rate = with_range(row[f"{c}.images_per_second"])
            figures = [f"{m[f'{c}.limit']:.1f}", f"{m[f'{c}.ratio']:.2f}"]
            times = [f"{m[f'{c}.{name}']:.1f}" for name in ("p50", "p95", "p99", "cpu_ms")]
            by_connections.append([*setting, str(c), rate, *figures, *times])
        by_setting.append(
            [
                *setting,
                f"{m['decode_ms']:.2f}",
                f"{m['engine_ms']:.2f} ({m['best_batch']:.0f})",
                f"{m['1.p50']:.1f} ÷ {m['alone_ms']:.1f}: {m['latency_ratio']:.2f}",
                f"{m['open.p99']:.0f} ÷ {m['largest_batch_ms']:.0f} ({m['largest_batch']:.0f}): {m['open_ratio']:.1f}",
                # results of the first version have none
                f"{m['open.ideal_p99']:.0f}" if "open.ideal_p99" in m else "–",
                f"{m['ready_s']:.1f}",
                f"{m['resident_mb']:.0f}",
            ]
        )
    return f"{markdown_table(CONNECTION_TITLES, by_connections)}\n\n{markdown_table(SETTING_TITLES, by_setting)}\n"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.http", description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=2, help="two samples are taken in each (default: 2)")
    parser.add_argument("--seconds", type=int, default=5, help="of load at each number of connections (default: 5)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also save the rows and the machine here")
    parser.add_argument(
        "--from", type=Path, dest="source", metavar="FILE", help="print the results that --json saved here instead"
    )
    args = parser.parse_args()
    if args.source:
        print(table(json.loads(args.source.read_text())["rows"]))
        return
    folder = published(RESNET50, "int8")
    machine = describe()
    rows = measure(folder, args.rounds, args.seconds)
    print(heading(machine))
    print(f"one JPEG of {len(photo())} bytes, 500x375; wrk on the same machine; medians of {2 * args.rounds} samples\n")
    print(table(rows))
    if args.json:
        save(args.json, machine=machine, rounds=args.rounds, rows=rows)


if __name__ == "__main__":
    main()
