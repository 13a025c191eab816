"""CPU time of decoding, beside plain Pillow; and what scaled decoding changes in the answers.

The plain way is that of tutorials: open, convert to RGB, resize, crop. It alternates with ours, image after image;
medians count.

    python -m benchmarks.decoding [--seconds 10] [--models-dir DIR --model NAME [--images 200]] [--json FILE]
"""

from __future__ import annotations

import argparse
import dataclasses
import io
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from benchmarks.machine import describe, heading, save
from benchmarks.photo import large_photo, photo
from benchmarks.tables import markdown_table
from model_export.drawings.pictures import CLASSES, STANDARD, draw
from model_export.versions import find_version
from service.runtime.engine import Engine
from service.runtime.images.decoding import decode
from service.runtime.images.resizing import COMPILED, RESAMPLING, resized_size
from service.runtime.loading import load_engine
from service.runtime.machine import usable_cores
from service.runtime.model_folder import read_card
from service.runtime.preprocessing import Preprocessing

# Drawings as large as a phone's photographs, which are decoded at an eighth of their size.
LARGE = dataclasses.replace(STANDARD, shorter_side=(2048, 2400))


def plain(data: bytes, preprocessing: Preprocessing) -> np.ndarray:
    """Decodes as tutorials do: uint8 (3, crop, crop)."""
    p = preprocessing
    image = Image.open(io.BytesIO(data)).convert("RGB")
    width, height = size = resized_size(image.size, p.resize)
    image = image.resize(size, RESAMPLING[p.interpolation])
    left, top = round((width - p.width) / 2), round((height - p.height) / 2)
    image = image.crop((left, top, left + p.width, top + p.height))
    return np.ascontiguousarray(np.asarray(image).transpose(2, 0, 1))


def ours(data: bytes, preprocessing: Preprocessing) -> np.ndarray:
    """Decodes as the service does."""
    return decode(data, preprocessing, max_pixels=10**9).pixels


def whole(data: bytes, preprocessing: Preprocessing) -> np.ndarray:
    """Decodes as the service does, without scaled decoding."""
    return decode(data, preprocessing, max_pixels=10**9, scaled=False).pixels


def cpu_ms(data: bytes, seconds: float) -> dict[str, float]:
    """Median CPU time of each way, in milliseconds of one thread."""
    ways: dict[str, Callable[[bytes, Preprocessing], np.ndarray]] = {"plain": plain, "ours": ours, "whole": whole}
    samples: dict[str, list[float]] = {name: [] for name in ways}
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        for name, way in ways.items():
            start = time.thread_time()
            way(data, Preprocessing())
            samples[name].append(1000 * (time.thread_time() - start))
    return {name: statistics.median(times) for name, times in samples.items()}


def agreement(engine: Engine, preprocessing: Preprocessing, images: int) -> dict[str, float]:
    """What scaled decoding changes for large drawings: answers as fractions, pixels in grey levels."""
    same = 0
    right = {"scaled": 0, "whole": 0}
    differences = []
    for number in tqdm(range(images), unit="image", desc="scaled and whole"):
        label = number % len(CLASSES)
        buffer = io.BytesIO()
        draw(label, np.random.default_rng((1, number)), LARGE).save(buffer, "JPEG", quality=90)
        pixels = {"scaled": ours(buffer.getvalue(), preprocessing), "whole": whole(buffer.getvalue(), preprocessing)}
        differences.append(np.abs(pixels["scaled"].astype(int) - pixels["whole"]).mean())
        answers = {name: int(engine.infer(array[None])["logits"].argmax()) for name, array in pixels.items()}
        same += answers["scaled"] == answers["whole"]
        for name, answer in answers.items():
            right[name] += answer == label
    return {
        "images": images,
        "top1_agreement": same / images,
        "top1_scaled": right["scaled"] / images,
        "top1_whole": right["whole"] / images,
        "mean_difference": float(np.mean(differences)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.decoding", description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=10, help="to measure each photograph for (default: 10)")
    parser.add_argument(
        "--models-dir",
        type=Path,
        metavar="DIR",
        default=Path("models"),
        help="the folder with --model (default: models)",
    )
    parser.add_argument("--model", help="a network trained on drawings: also measure what scaled decoding changes")
    parser.add_argument(
        "--images", type=int, default=200, help="large drawings to classify with --model (default: 200)"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="also save the results and the machine here")
    args = parser.parse_args()
    machine = describe()
    print(heading(machine))
    print(f"resampling: {'compiled' if COMPILED else 'by Pillow (the C extension is not built)'}\n")
    photos = {"500x375": photo(), "4000x3000": large_photo(), "4000x3000, noisy": large_photo(noise=4)}
    rows = {name: cpu_ms(data, args.seconds) for name, data in photos.items()}
    titles = ["photograph", "plain, CPU ms", "ours", "ours ÷ plain", "ours without scaled decoding"]
    cells = [
        [
            f"{name}, {len(photos[name]) / 1000:.0f} kB",
            f"{row['plain']:.2f}",
            f"{row['ours']:.2f}",
            f"{row['ours'] / row['plain']:.3f}",
            f"{row['whole']:.2f}",
        ]
        for name, row in rows.items()
    ]
    print(markdown_table(titles, cells))
    changed = None
    if args.model:
        folder = find_version(args.models_dir, args.model).path
        card = read_card(folder)
        engine = load_engine(folder, card, provider="cpu", precision="fp32", threads=usable_cores())
        changed = agreement(engine, card.preprocessing, args.images)
        print(
            f"\n{args.model}, {args.images} large drawings, scaled and whole decoding: top-1 agreement "
            f"{100 * changed['top1_agreement']:.1f} %; top-1 accuracy {100 * changed['top1_scaled']:.1f} and "
            f"{100 * changed['top1_whole']:.1f} %; mean difference of pixels {changed['mean_difference']:.2f} levels"
        )
    if args.json:
        save(args.json, machine=machine, cpu_ms=rows, scaled=changed)


if __name__ == "__main__":
    main()
