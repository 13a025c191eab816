"""Whether the service's memory stays flat: resident memory while it answers many requests, and its slope.

The uploads are mixed: JPEG, PNG and WebP in two sizes, and broken ones. The slope is that of Theil and Sen, the median
over all pairs of samples. The first fifth of the requests, in which memory settles, does not count. The interval is
Sen's (1968) for independent samples. Memory moves in steps, so it may be too narrow.

    python -m benchmarks.memory [--requests 100000] [--models-dir DIR --model NAME] [--json FILE]
"""

from __future__ import annotations

import argparse
import io
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from PIL import Image
from tqdm import tqdm

from benchmarks.machine import describe, heading, save
from benchmarks.models import RESNET50, published
from benchmarks.photo import large_photo, photo
from benchmarks.processes import resident_mb
from benchmarks.serving import service
from benchmarks.tables import markdown_table
from service.bench.closed_loop import drive
from service.bench.requests import Upload

CONNECTIONS = 32
SAMPLES = 50
SHORTEST_S = 1.0  # between two samples; the connections open anew, and requests in flight are dropped
STEPS = 10  # rows of the table
SETTLING = 0.2  # of all requests
UNIT = 100_000  # requests, in which the slope is given


class Slope(NamedTuple):
    """MB for every `UNIT` requests, with a 95 % interval."""

    mb: float
    low: float
    high: float


def mixed_uploads() -> list[Upload]:
    """Seven images and four uploads that are none, with the status that each should get."""
    jpeg, large = photo(), large_photo()
    png, webp = _as(jpeg, "PNG"), _as(jpeg, "WEBP")
    return [
        Upload(jpeg),
        Upload(png, "image/png"),
        Upload(jpeg[: len(jpeg) // 2], status=422),
        Upload(webp, "image/webp"),
        Upload(jpeg),
        Upload(b"not an image", status=422),
        Upload(large),
        Upload(png[: len(png) // 2], "image/png", status=422),
        Upload(webp[: len(webp) // 2], "image/webp", status=422),
        Upload(_as(large, "PNG", (1500, 1000)), "image/png"),
        Upload(_as(large, "WEBP", (1500, 1000)), "image/webp"),
    ]


def _as(jpeg: bytes, file_format: str, size: tuple[int, int] | None = None) -> bytes:
    buffer = io.BytesIO()
    image = Image.open(io.BytesIO(jpeg))
    (image.resize(size) if size else image).save(buffer, file_format)
    return buffer.getvalue()


def slope(found: Mapping[int, float]) -> Slope:
    """The slope of memory over requests, from samples by the number of requests before them."""
    from scipy.stats import theilslopes  # takes a second, which every process of the tests would spend

    last = max(found)
    settled = {requests: mb for requests, mb in found.items() if requests >= SETTLING * last}
    fit = theilslopes(list(settled.values()), list(settled), 0.95)
    return Slope(*(UNIT * float(value) for value in (fit.slope, fit.low_slope, fit.high_slope)))


def measure(url: str, pid: int, requests: int) -> dict[int, float]:
    """Resident memory, in units of 1000 KiB, by the number of requests before it.

    Raises:
        RuntimeError: a request got another status than it should.
    """
    uploads = mixed_uploads()
    found = {0: resident_mb(pid)}
    done, seconds = 0, SHORTEST_S
    with tqdm(total=requests, unit="request") as bar:
        while done < requests:
            load = drive(url, uploads, CONNECTIONS, seconds)
            answered = len(load.latencies)
            if load.failed:
                raise RuntimeError(f"{load.failed} requests failed, {answered} were answered")
            done += answered
            bar.update(answered)
            found[done] = resident_mb(pid)
            seconds = max(SHORTEST_S, requests / SAMPLES * load.elapsed / max(answered, 1))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.memory", description=__doc__.partition("\n")[0])
    parser.add_argument("--requests", type=int, default=100_000, help="(default: 100000)")
    parser.add_argument(
        "--models-dir",
        type=Path,
        metavar="DIR",
        help="the folder with --model (default: that of the benchmarks, with a ResNet-50)",
    )
    parser.add_argument("--model", default=RESNET50.name, help=f"(default: {RESNET50.name})")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also save the results and the machine here")
    args = parser.parse_args()
    root = args.models_dir or published(RESNET50, "int8").parent.parent
    machine = describe()
    with service({"models-dir": root, "models": args.model}) as running:
        found = measure(running.url, running.pid, args.requests)
        model = running.model()
    fit = slope(found)
    print(heading(machine))
    print(f"{args.model} on {model['provider']} in {model['precision']}, {CONNECTIONS} connections, mixed uploads\n")
    shown = list(found.items())[:: max(1, len(found) // STEPS)]
    print(markdown_table(["requests", "RSS MB"], [[str(requests), f"{mb:.0f}"] for requests, mb in shown]))
    print(f"\nslope: {fit.mb:.2f} MB ({fit.low:.2f} to {fit.high:.2f}) for {UNIT} requests, 95 %")
    if args.json:
        save(args.json, machine=machine, model=model, resident_mb=found, slope=fit._asdict())


if __name__ == "__main__":
    main()
