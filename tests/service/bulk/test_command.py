"""`resnet classify` as a process: its output, its exit status, and its end."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.support.waiting import until

pytestmark = pytest.mark.e2e

SLOWLY = """
import asyncio
from service.pipeline import Pipeline
classify = Pipeline.classify
async def slowly(*given, **more):
    await asyncio.sleep({seconds})
    return await classify(*given, **more)
Pipeline.classify = slowly
"""


def command(models_dir: Path, *arguments: object, slow: float = 0) -> list[str]:
    """Starts it; `slow` is how many seconds an image takes at least."""
    program = (SLOWLY.format(seconds=slow) if slow else "") + (
        "import sys; from service.bulk.__main__ import main; sys.exit(main(sys.argv[1:]))"
    )
    given = [*map(str, arguments), "--models-dir", str(models_dir), "--provider", "cpu"]
    return [sys.executable, "-c", program, *given]


def run(models_dir: Path, *arguments: object, stdin: str = "", cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "RESNET_MAX_BATCH": "4"}
    return subprocess.run(
        command(models_dir, *arguments),
        cwd=cwd,
        input=stdin,
        capture_output=True,
        text=True,
        timeout=100,
        env=environment,
    )


def draw(folder: Path, count: int) -> list[str]:
    """Small images; returns their names, sorted."""
    rng = np.random.default_rng(0)
    names = []
    for number in range(count):
        path = folder / f"{number // 100:03d}" / f"{number:05d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (8, 8, 3), dtype=np.uint8)).save(path)
        names.append(str(path.relative_to(folder.parent)))
    return names


@pytest.fixture
def photos(tmp_path: Path) -> list[str]:
    """Three images and a broken one, in the folder `photos` of the working folder."""
    names = draw(tmp_path / "photos", 3)
    (tmp_path / "photos" / "broken.png").write_bytes(b"no image")
    return [*names, "photos/broken.png"]


def test_a_line_for_each_image(tiny_dir: Path, tmp_path: Path, photos: list[str]) -> None:
    finished = run(tiny_dir, "photos", "--top-k", 1, cwd=tmp_path)
    lines = finished.stdout.splitlines()
    assert [line.partition(": ")[0] for line in lines] == photos
    assert all(line.partition(": ")[2].startswith("class ") for line in lines[:3])
    assert lines[3].startswith("photos/broken.png: error: Not an image. ")
    assert finished.stderr.startswith("4 images in ")
    assert finished.stderr.endswith(", 1 failed\n")
    assert finished.returncode == 1


def test_all_good(tiny_dir: Path, tmp_path: Path, photos: list[str]) -> None:
    finished = run(tiny_dir, "-", "--json", stdin="\n".join(photos[:3]), cwd=tmp_path)
    rows = list(map(json.loads, finished.stdout.splitlines()))
    assert [row["file"] for row in rows] == photos[:3]
    assert {(row["model"], row["version"], row["width"]) for row in rows} == {("resnet8-cifar", 1, 8)}
    assert (finished.returncode, finished.stderr) == (0, "")


def test_overlays_lie_as_the_images_do(tiny_dir: Path, tmp_path: Path, photos: list[str]) -> None:
    assert run(tiny_dir, "photos", "--explain", "why", cwd=tmp_path).returncode == 1
    written = sorted(path for path in (tmp_path / "why").rglob("*") if path.is_file())
    assert [str(path.relative_to(tmp_path)) for path in written] == [f"why/{name}.png" for name in photos[:3]]


def test_csv_to_a_file_goes_on(tiny_dir: Path, tmp_path: Path, photos: list[str]) -> None:
    assert run(tiny_dir, *photos[:2], "--csv", "--output", "out.csv", cwd=tmp_path).returncode == 0
    again = run(tiny_dir, "photos", "--csv", "--output", "out.csv", cwd=tmp_path)
    assert again.stderr.startswith("error: out.csv is there already: go on with it by --resume")
    assert again.returncode == 2
    assert run(tiny_dir, "photos", "--csv", "--output", "out.csv", "--resume", cwd=tmp_path).returncode == 1
    with (tmp_path / "out.csv").open(newline="") as file:
        assert [row["file"] for row in csv.DictReader(file)] == photos


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["photos", "--model", "none"], "error: there is no model none: choose from resnet18, resnet8-cifar"),
        ([""], "error: empty path"),
        (["photos", "--json", "--output", "none/x"], "error: none/x: No such file or directory"),
    ],
)
def test_a_run_that_cannot_begin(
    arguments: list[str], message: str, tiny_dir: Path, tmp_path: Path, photos: list[str]
) -> None:
    finished = run(tiny_dir, *arguments, cwd=tmp_path)
    assert finished.stderr.startswith(message)
    assert (finished.returncode, finished.stdout) == (2, "")


def test_a_reader_that_leaves_is_no_error(tiny_dir: Path, tmp_path: Path, photos: list[str]) -> None:
    process = subprocess.Popen(
        command(tiny_dir, "photos"), cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    assert "Traceback" not in process.stderr.read()
    assert process.wait(60) == 1
    process.stderr.close()


@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_a_signal_ends_it_with_what_is_done(number: signal.Signals, tiny_dir: Path, tmp_path: Path) -> None:
    names = draw(tmp_path / "photos", 500)
    out = tmp_path / "out.jsonl"
    arguments = ("photos", "--json", "--output", "out.jsonl")
    process = subprocess.Popen(command(tiny_dir, *arguments, slow=0.2), cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    until(lambda: out.exists() and out.stat().st_size > 0, 60)
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert said.startswith("interrupted: ")
    rows = list(map(json.loads, out.read_text().splitlines()))
    assert 0 < len(rows) < 500
    assert [row["file"] for row in rows] == names[: len(rows)]
    assert run(tiny_dir, *arguments, "--resume", cwd=tmp_path).returncode == 0
    assert [json.loads(line)["file"] for line in out.read_text().splitlines()] == names


@pytest.mark.slow
@pytest.mark.parametrize("form", ["json", "csv", "parquet"])
def test_ten_thousand_images_have_one_row_each_however_often_it_is_killed(
    form: str, tiny_dir: Path, tmp_path: Path
) -> None:
    names = draw(tmp_path / "photos", 10_000)
    out = tmp_path / "out"
    target = ("--parquet", "out") if form == "parquet" else (f"--{form}", "--output", "out")
    parts = tmp_path / "out.parts"

    def size() -> int:
        """How much is written."""
        files = [out, *parts.glob("*.parquet")]
        return sum(file.stat().st_size for file in files if file.exists())

    # Parts of few rows, so that a kill may come between any two steps.
    quickly = "import service.bulk.parquet as parquet\nparquet.PART_ROWS = 500\n"
    arguments = command(tiny_dir, "photos", *target, "--resume")
    arguments[2] = quickly + arguments[2]
    kills = 0
    while True:
        before = size()
        process = subprocess.Popen(arguments, cwd=tmp_path, stderr=subprocess.DEVNULL)
        until(lambda: process.poll() is not None or size() > before + 50_000 + 7919 * kills, 120)  # noqa: B023
        if process.poll() is not None:
            break
        process.kill()
        process.wait()
        kills += 1
    assert process.returncode == 0
    assert kills >= 3
    assert [row["file"] for row in rows_of(out, form)] == names
    assert Counter(row["model"] for row in rows_of(out, form)) == {"resnet8-cifar": 10_000}


def rows_of(path: Path, form: str) -> list[dict[str, Any]]:
    if form == "parquet":
        parquet = pytest.importorskip("pyarrow.parquet", reason="the extra `parquet` is not installed")
        return list(parquet.read_table(path).to_pylist())
    with path.open(newline="") as file:
        return list(map(json.loads, file)) if form == "json" else list(csv.DictReader(file))
