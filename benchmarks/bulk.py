"""`resnet classify` over many files: its speed beside the service's, its memory, and its rows when it is killed.

First the service and `resnet classify` classify the same photograph in turn, with the same model: a ResNet-50 that does
the same work. The goal is a ratio of 0.95 to 1.05. Then a model that is all but free to compute classifies `--images`
files, which are hard links to a few small pictures: the process is killed `--kills` times and goes on with `--resume`.

    python -m benchmarks.bulk [--rounds 3] [--photos 400] [--images 1000000] [--kills 5] [--format json] [--json FILE]

`--rounds 0` leaves the comparison out, and `--images 0` the files.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from multiprocessing import Pool
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from benchmarks.closed_loop import without_wrk
from benchmarks.machine import describe, heading, save
from benchmarks.models import RESNET8, RESNET50, published
from benchmarks.photo import photo
from benchmarks.processes import peak_mb
from benchmarks.serving import model_options, service
from benchmarks.tables import spread, with_range
from service.runtime.choices import FilePrecision

CONNECTIONS = 32
PICTURES = 50  # that are different
IN_A_FOLDER = 1000


class Killed(NamedTuple):
    """A run over many files that was killed and resumed.

    Attributes:
        files: different ones among those of the rows.
        seconds: of all processes together.
        peak_mb: resident memory of the largest process.
    """

    images: int
    kills: int
    rows: int
    files: int
    seconds: float
    peak_mb: float


def linked(folder: Path, sources: Sequence[bytes], count: int) -> None:
    """Fills a folder with `count` names of files that have one of these contents."""
    originals = []
    for number, data in enumerate(sources):
        originals.append(folder / f".{number}")  # hidden: not classified itself
        originals[-1].write_bytes(data)
    for number in range(count):
        path = folder / f"{number // IN_A_FOLDER:05d}" / f"{number:08d}.jpg"
        if number % IN_A_FOLDER == 0:
            path.parent.mkdir(parents=True)
        os.link(originals[number % len(originals)], path)


def command(model: Path, folder: Path, *arguments: str) -> list[str]:
    options = [
        f"--{name}={value}" for name, value in (("models-dir", model.parent.parent), ("model", model.parent.name))
    ]
    return [sys.executable, "-m", "service.bulk", str(folder), *options, *arguments]


def classifying(model: Path, images: int, *options: str) -> float:
    """Images per second of `resnet classify`, without the time to start: the slope between a run over a tenth of the
    images and one over all of them.
    """
    with tempfile.TemporaryDirectory() as name:
        taken = []
        for count in (images // 10, images):
            folder = Path(name) / str(count)
            folder.mkdir()
            linked(folder, [photo()], count)
            started = time.perf_counter()
            subprocess.run(command(model, folder, "--json", *options), check=True, stdout=subprocess.DEVNULL)
            taken.append(time.perf_counter() - started)
    return (images - images // 10) / (taken[1] - taken[0])


def speed(model: Path, images: int) -> tuple[float, float]:
    """Images per second of the service under a closed loop, and of `resnet classify`."""
    with service(model_options(model)) as running, Pool(2) as pool:
        without_wrk(pool, [running.url], photo(), CONNECTIONS, 2)
        load, _ = without_wrk(pool, [running.url], photo(), CONNECTIONS, 8)
    return load.images_per_second, classifying(model, images)


def killed(model: Path, images: int, kills: int, form: str, after: float) -> Killed:
    """Classifies so many small images. The process is killed after so many seconds, and begun again."""
    with tempfile.TemporaryDirectory() as name:
        folder, out = Path(name) / "images", Path(name) / "out"
        folder.mkdir()
        linked(folder, list(small_pictures()), images)
        target = ("--parquet", str(out)) if form == "parquet" else (f"--{form}", "--output", str(out))
        arguments = command(model, folder, *target, "--resume")
        done, peak, started = 0, 0.0, time.perf_counter()
        while True:
            process = subprocess.Popen(arguments)
            begun = time.perf_counter()
            while process.poll() is None and (done == kills or time.perf_counter() < begun + after):
                with contextlib.suppress(OSError, KeyError):  # it has just ended
                    peak = max(peak, peak_mb(process.pid))
                time.sleep(0.2)
            if process.poll() is not None:
                break
            process.kill()
            process.wait()
            done += 1
        seconds = time.perf_counter() - started
        if process.returncode:
            raise RuntimeError(f"resnet classify ended with {process.returncode}")
        files = _files(out, form)
        return Killed(images, done, len(files), len(set(files)), seconds, peak)


def small_pictures() -> Iterator[bytes]:
    """JPEGs of 32x32 pixels."""
    chance = np.random.default_rng(0)
    for number in range(PICTURES):
        with tempfile.NamedTemporaryFile(suffix=".jpg") as file:
            pixels = chance.integers(0, 255, (32, 32, 3), dtype=np.uint8)
            Image.fromarray(pixels // (1 + number % 4)).save(file.name)
            yield Path(file.name).read_bytes()


def _files(out: Path, form: str) -> list[str]:
    if form == "parquet":
        import pyarrow.parquet

        return list(pyarrow.parquet.read_table(out, columns=["file"])["file"].to_pylist())
    with out.open(newline="") as file:
        return [row["file"] for row in (map(json.loads, file) if form == "json" else csv.DictReader(file))]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bulk", description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=3, help="of the comparison (default: 3)")
    parser.add_argument("--photos", type=int, default=400, help="photographs of each round (default: 400)")
    parser.add_argument("--precision", choices=("fp32", "int8"), default="int8", help="(default: int8)")
    parser.add_argument("--images", type=int, default=1_000_000, help="files to classify, killed (default: 1000000)")
    parser.add_argument("--kills", type=int, default=5, help="most kills (default: 5)")
    parser.add_argument("--kill-after", type=float, default=60.0, metavar="S", help="seconds between (default: 60)")
    parser.add_argument("--format", choices=("json", "csv", "parquet"), default="json", help="(default: json)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures")
    args = parser.parse_args()
    machine = describe()
    print(heading(machine))
    precision: FilePrecision = args.precision
    model = published(RESNET50, precision)
    rounds = [speed(model, args.photos) for _ in range(args.rounds)]
    ratios = [here / served for served, here in rounds]
    if ratios:
        print(f"\nresnet classify / service: {with_range(spread(ratios), 3)}; images/s: {rounds}")
    many = killed(published(RESNET8), args.images, args.kills, args.format, args.kill_after) if args.images else None
    if many:
        print(
            f"{many.images} images, killed {many.kills} times: {many.rows} rows of {many.files} files in "
            f"{many.seconds:.0f} s, at most {many.peak_mb:.0f} MB"
        )
    if args.json:
        save(args.json, machine=machine, rounds=rounds, killed=many._asdict() if many else None)


if __name__ == "__main__":
    main()
