"""`resnet classify --ray` on real nodes: the rows of one process, each once, whatever dies."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import termios
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import pytest

from model_export.drawings.pictures import CLASSES, picture
from tests.support.buckets import KEY, SECRET, s3_server
from tests.support.mortal import FATAL
from tests.support.ray_cluster import ENVIRONMENT, Cluster
from tests.support.waiting import until

pytest.importorskip("ray", reason="the extra `ray` is not installed")

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(1800)]

PICTURES = 60  # that are different
SETTINGS = {"RESNET_PROVIDER": "cpu", "RESNET_PRECISION": "fp32", "RESNET_MAX_BATCH": "4"}
PATIENCE_S = 600


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """A head that says it has a GPU, with which Ray takes other ways; engines compute on the CPU all the same."""
    with Cluster(2, gpus=1) as started:
        yield started


def environment() -> Mapping[str, str]:
    variables = {name: value for name, value in os.environ.items() if name.startswith(("AWS_", "RESNET_"))}
    given = {**ENVIRONMENT, **variables, **SETTINGS}
    del given["RAY_AUTH_MODE"]  # the token is enough
    return given


def command(models_dir: Path, output: Path, *arguments: str) -> list[str]:
    options = [f"--models-dir={models_dir}", "--json", f"--output={output}", *arguments]
    return [sys.executable, "-m", "service.bulk", *options]


def classified(models_dir: Path, output: Path, *arguments: str) -> dict[str, Any]:
    """The rows of a run that ends by itself."""
    finished = subprocess.run(
        command(models_dir, output, *arguments), env=environment(), capture_output=True, text=True, timeout=PATIENCE_S
    )
    print(finished.stderr)
    assert finished.returncode == 1  # some are broken
    assert "Warning" not in finished.stderr
    return rows(output)


def rows(output: Path) -> dict[str, Any]:
    found = [json.loads(line) for line in output.read_text().splitlines()]
    named = {row["file"]: row for row in found}
    assert len(named) == len(found), "an image has several rows"
    return named


def same(found: dict[str, Any], expected: dict[str, Any]) -> None:
    """The same files, with the same answers but for the rounding of batches of other sizes."""
    assert found.keys() == expected.keys()
    for file, row in expected.items():
        assert {**found[file], "predictions": None} == {**row, "predictions": None}
        for one, other in zip(found[file].get("predictions", ()), row.get("predictions", ()), strict=True):
            assert one["probability"] == pytest.approx(other["probability"], abs=2e-6)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """1000 drawings, some of them the same, and files that are no images."""
    folder = tmp_path_factory.mktemp("images")
    for number in range(1000):
        path = folder / f"{number:04d}.jpg"
        if number < PICTURES:
            path.write_bytes(picture(number, number % len(CLASSES)))
        else:
            os.link(folder / f"{number % PICTURES:04d}.jpg", path)
    (folder / "broken.jpg").write_bytes(b"no image")
    (folder / "cut.png").write_bytes((folder / "0000.jpg").read_bytes()[:2000])
    return folder


@pytest.fixture(scope="module")
def expected(models_dir: Path, images: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The rows of one process."""
    return classified(models_dir, tmp_path_factory.mktemp("expected") / "out.jsonl", str(images), "--depth=18")


def begun(process: subprocess.Popen[bytes], output: Path, before: int = 0) -> None:
    """Waits until the first rows are there, beside those of an earlier run; the process has not ended then."""
    until(lambda: process.poll() is not None or (output.exists() and written(output) > before), PATIENCE_S)
    assert process.poll() is None


def written(output: Path) -> int:
    return output.read_bytes().count(b"\n")


def test_a_node_is_killed(
    cluster: Cluster, models_dir: Path, images: Path, expected: dict[str, Any], tmp_path: Path
) -> None:
    node, output = cluster.add(), tmp_path / "out.jsonl"
    arguments = (str(images), "--depth=18", f"--ray={cluster.address}", "--engines=2")
    process = subprocess.Popen(command(models_dir, output, *arguments), env=environment())
    begun(process, output)
    cluster.kill(node)
    assert len(output.read_text().splitlines()) < len(expected)
    assert process.wait(PATIENCE_S) == 1
    same(rows(output), expected)


def test_the_driver_is_interrupted_and_killed_and_resumes(
    cluster: Cluster, models_dir: Path, images: Path, expected: dict[str, Any], tmp_path: Path
) -> None:
    output, before = tmp_path / "out.jsonl", 0
    arguments = (str(images), "--depth=18", f"--ray={cluster.address}", "--resume")
    for number, status in ((signal.SIGINT, 128 + signal.SIGINT), (signal.SIGKILL, -signal.SIGKILL)):
        process = subprocess.Popen(command(models_dir, output, *arguments), env=environment())
        begun(process, output, before)
        process.send_signal(number)
        assert process.wait(PATIENCE_S) == status
        before = written(output)
        assert before < len(expected)
    same(classified(models_dir, output, *arguments), expected)


def test_ctrl_c_ends_a_run_that_still_reads_its_list(cluster: Cluster, tiny_dir: Path, tmp_path: Path) -> None:
    arguments = command(tiny_dir, tmp_path / "out.jsonl", "-", f"--ray={cluster.address}")
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(arguments, env=environment(), stdin=subprocess.PIPE, stderr=log)
    assert process.stdin
    with process.stdin as stdin:
        stdin.write(b"nothing.jpg\n")
        stdin.flush()
        until(lambda: process.poll() is not None or unread(stdin) == 0, PATIENCE_S)
        process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE_S) == 128 + signal.SIGINT  # while the list goes on
    assert (tmp_path / "log").read_text().startswith("interrupted: 0 images")


def unread(pipe: IO[bytes]) -> int:
    """Bytes in a pipe."""
    return int.from_bytes(fcntl.ioctl(pipe, termios.FIONREAD, bytes(4)), sys.byteorder)


def test_parquet_in_and_out(cluster: Cluster, tiny_dir: Path, images: Path, tmp_path: Path) -> None:
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    files = [*sorted(images.glob("000*.jpg")), images / "broken.jpg"]
    source, out = tmp_path / "in.parquet", tmp_path / "out.parquet"
    pq.write_table(pa.table({"image": [file.read_bytes() for file in files]}), source, row_group_size=4)
    (tmp_path / "models").symlink_to(tiny_dir)
    (tmp_path / "copy.jpg").write_bytes(files[0].read_bytes())
    # Paths start in the folder of the command; the nodes run elsewhere.
    arguments = [source.name, "copy.jpg", "--models-dir=models", f"--ray={cluster.address}", f"--parquet={out}"]
    finished = subprocess.run(
        [sys.executable, "-m", "service.bulk", *arguments],
        env=environment(),
        cwd=tmp_path,
        capture_output=True,
        timeout=PATIENCE_S,
    )
    assert finished.returncode == 1, finished.stderr
    single = classified(tiny_dir, tmp_path / "single.jsonl", *map(str, files))
    found = {row["file"]: row for row in pq.read_table(out).to_pylist()}
    for number, file in enumerate(files):
        row, other = found.pop(f"{source.name}#{number}"), single[str(file)]
        assert row["class_ids"] == [one["class_id"] for one in other.get("predictions", ())]
        assert (row["problem"] is None) == ("error" not in other)
    assert [found.pop("copy.jpg")["problem"], *found] == [None]


def test_a_bucket(tiny_dir: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a cluster of this machine alone, whose processes have the variables of the command."""
    files = [*sorted(images.glob("000*.jpg")), images / "broken.jpg"]
    archive = tmp_path / "buckets/archive/2024"
    archive.mkdir(parents=True)
    for file in files:
        shutil.copy(file, archive)
    single = classified(tiny_dir, tmp_path / "single.jsonl", *map(str, files))
    with s3_server(tmp_path / "buckets") as address:
        for name, value in {"ENDPOINT_URL": address, "ACCESS_KEY_ID": KEY, "SECRET_ACCESS_KEY": SECRET}.items():
            monkeypatch.setenv(f"AWS_{name}", value)
        found = classified(tiny_dir, tmp_path / "out.jsonl", "s3://archive/2024", "--ray=local", "--engines=1")
    renamed = {f"s3://archive/2024/{Path(file).name}": row for file, row in single.items()}
    same(found, {url: {**row, "file": url} for url, row in renamed.items()})


HOLD = """
import sys, ray
ray.init(address=sys.argv[1], log_to_driver=False)
ray.util.placement_group([{"CPU": 2}]).wait(600)
print(flush=True)
sys.stdin.read()
"""


def test_a_full_cluster_is_waited_for_and_that_is_said(cluster: Cluster, tiny_dir: Path, tmp_path: Path) -> None:
    hold = [sys.executable, "-c", HOLD, cluster.address]
    log, source = tmp_path / "log", tmp_path / "nothing.jpg"
    arguments = command(tiny_dir, tmp_path / "out.jsonl", str(source), f"--ray={cluster.address}")
    with subprocess.Popen(hold, env=ENVIRONMENT, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holding:
        assert holding.stdin
        assert holding.stdout
        assert holding.stdout.readline() == b"\n"
        with log.open("wb") as errors:
            process = subprocess.Popen(arguments, env=environment(), stderr=errors)
        until(lambda: process.poll() is not None or b"\n" in log.read_bytes(), PATIENCE_S)
        assert log.read_text() == (
            "waiting for room on the cluster: an engine takes 1 CPUs and 1 GPUs of one machine, decoding 1 CPU; free "
            "are 0 of 2 CPUs and 1 of 1 GPUs\n"
        )
    assert process.wait(PATIENCE_S) == 1
    assert len(rows(tmp_path / "out.jsonl")) == 1


MORTAL = """
import sys
from service.bulk.__main__ import main
from service.bulk.cluster import running
from tests.support.mortal import Mortal
running.Decoding = Mortal
sys.exit(main(sys.argv[1:]))
"""


def test_an_image_that_kills_its_worker_is_a_row_with_a_problem(
    cluster: Cluster, tiny_dir: Path, images: Path, tmp_path: Path
) -> None:
    (tmp_path / "fatal.jpg").write_bytes(FATAL)
    paths = [str(images / "0000.jpg"), str(tmp_path / "fatal.jpg"), str(images / "0001.jpg")]
    arguments = command(tiny_dir, tmp_path / "out.jsonl", *paths, f"--ray={cluster.address}")[3:]
    finished = subprocess.run(
        [sys.executable, "-c", MORTAL, *arguments],
        env={**environment(), "RAY_AUTH_MODE": "token"},  # Ray is imported before the command can see to it
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )
    assert finished.returncode == 1, finished.stderr
    found = rows(tmp_path / "out.jsonl")
    assert [found[path].get("error", {}).get("type") for path in paths] == [None, "/problems/decoding-killed", None]


def test_no_cluster(tiny_dir: Path, images: Path, tmp_path: Path) -> None:
    arguments = command(tiny_dir, tmp_path / "out.jsonl", str(images), "--ray=127.0.0.1:1")
    finished = subprocess.run(arguments, env=environment(), capture_output=True, text=True, timeout=PATIENCE_S)
    assert finished.returncode == 2
    assert "no Ray cluster answers at 127.0.0.1:1" in finished.stderr
