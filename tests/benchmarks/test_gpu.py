"""The GPU benchmarks without a GPU: a whole run on the CPU, killed at the end, and single parts."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import models
from benchmarks.gpu import __main__ as proof
from benchmarks.gpu import http, tensorrt
from benchmarks.gpu.engine import Way, rate
from benchmarks.gpu.experiment import visits
from benchmarks.gpu.plan import Plan, Report, library_folders, mixed_rate, mixed_sizes, model_folder, per_second
from benchmarks.gpu.provider import placed
from benchmarks.processes import descendants
from service.runtime.model_folder import read_card
from service.runtime.providers import open_session
from tests.support.exports import reuse_export
from tests.support.waiting import until

ROOT = Path(__file__).parents[2]


def results(folder: Path, stage: str) -> dict[str, object]:
    content: dict[str, object] = json.loads((folder / f"gpu-{stage}.json").read_text())
    return content


@pytest.mark.e2e
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_every_stage_leaves_its_results_even_if_the_next_one_is_killed(tmp_path: Path) -> None:
    """A whole run on a CPU. After each stage its file is read; in the last but one everything is killed."""
    command = [sys.executable, "-m", "benchmarks.gpu", "--device", "cpu", "--tiny", "--seconds", "3000"]
    process = subprocess.Popen(
        [*command, "--out", str(tmp_path)],
        cwd=tmp_path,  # where the model is published
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    found: dict[str, dict[str, object]] = {}
    try:
        for line in process.stdout:
            stage = line.partition(":")[0]
            if "ended with status 0" in line:
                found[stage] = results(tmp_path, stage)
            if stage == "experiment":
                break
    finally:
        for pid in (process.pid, *descendants(process.pid)):
            os.kill(pid, signal.SIGKILL)
        process.wait()
        process.stdout.close()
    assert list(found) == ["provider", "http", "engine", "compiled", "feeding"]
    assert {stage: results(tmp_path, stage) for stage in found} == found
    tables = {
        "provider": {"model", "nodes", "self-test", "parity", "agreement"},
        "http": {"decoding", "GPU before the service", "HTTP"},
        "engine": {"images/s"},
        "compiled": {"PyTorch compiled"},
        "feeding": {"decoding"},
    }
    for stage, content in found.items():
        assert content.keys() == {"stage", "machine", "device"} | tables[stage]
        assert content["device"] == "cpu"
    ways = [(row["way"], row["callers"]) for row in found["engine"]["images/s"]]  # type: ignore[attr-defined]
    assert ("PyTorch eager", 1) in ways
    assert all(set(row) >= {"1", "2", "mixed"} for row in found["engine"]["images/s"])  # type: ignore[attr-defined]
    loads = [(row["replicas"], row["workers"], row["connections"]) for row in found["http"]["HTTP"]]  # type: ignore[attr-defined]
    assert loads == [(1, 1, 1), (1, 1, 4), (2, 2, 1), (2, 2, 4)]


def test_results_are_saved_row_by_row(tmp_path: Path) -> None:
    (tmp_path / "gpu-x.json").write_text('{"stage": "of an earlier run"}')
    report = Report(tmp_path / "gpu-x.json", stage="x")
    assert results(tmp_path, "x") == {"stage": "of an earlier run"}
    report.add("rates", {"batch": 1, "images/s": 2.0})
    assert results(tmp_path, "x") == {"stage": "x", "rates": [{"batch": 1, "images/s": 2.0}]}
    report.add("rates", {"batch": 8})
    assert len(results(tmp_path, "x")["rates"]) == 2  # type: ignore[arg-type]
    assert [path.name for path in tmp_path.iterdir()] == ["gpu-x.json"]


def test_a_stage_over_its_time_is_killed_with_all_its_processes_and_the_next_one_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pid = tmp_path / "pid"
    programs = {
        "provider": f"import subprocess; child = subprocess.Popen(['sleep', '600']); "
        f"open({str(pid)!r}, 'w').write(str(child.pid)); child.wait()",
        "engine": "exit(3)",
        "http": "",
    }
    real = proof.run_process

    def run(command: list[str], seconds: float) -> int | None:
        stage = command[command.index("--stage") + 1]
        if stage == "provider":
            seconds = 2.0
        return real([sys.executable, "-c", programs[stage]], seconds)

    monkeypatch.setattr(proof, "run_process", run)
    assert proof.run_all(Plan("cpu", True, tmp_path), ["provider", "engine", "http"], 300) == 1
    printed = capsys.readouterr().out
    assert "provider: was cut short" in printed
    assert "engine: ended with status 3" in printed
    assert "http: ended with status 0" in printed
    assert "incomplete: provider, engine" in printed
    until(lambda: not runs(int(pid.read_text())))


def runs(pid: int) -> bool:
    """Whether a process has not ended; a zombie has."""
    return Path(f"/proc/{pid}").exists() and "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()


def test_stages_without_time_left_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert proof.run_all(Plan("cpu", True, tmp_path), ["provider"], 0) == 1
    assert "provider: no time left" in capsys.readouterr().out


def test_without_a_gpu_one_sentence_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert proof.main(["--stage", "provider", "--out", str(tmp_path)]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: PyTorch ")
    assert "sees no GPU: run this where `nvidia-smi` shows one" in error
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def folder(models_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The published model."""
    with pytest.MonkeyPatch.context() as patch:
        reuse_export(patch, models_dir)
        patch.setattr(models, "CACHE", tmp_path_factory.mktemp("models"))
        yield model_folder(Plan("cpu", True, Path()))


@pytest.mark.slow
def test_nodes_are_counted_by_provider(folder: Path) -> None:
    row = placed(folder, "fp32", Plan("cpu", True, Path()))
    operators = row["operators"]
    assert isinstance(operators, dict)
    assert row["CPUExecutionProvider"] == sum(operators.values())
    assert operators["Conv"] == 7
    assert row["copies"] == 0


@pytest.mark.slow
def test_the_model_is_published_once_and_has_every_file(folder: Path) -> None:
    assert read_card(folder).files.keys() >= {"fp32", "fp16"}
    assert model_folder(Plan("cpu", True, Path())) == folder


@pytest.mark.slow
def test_visits_to_batch_sizes_are_timed(folder: Path) -> None:
    found = visits(open_session(folder / "model.onnx", "cpu", threads=1).ort, 1, 2)
    assert [name for name in found if "first" in name] == [
        "1: first of 1",
        "2: first of 2",
        "3: first of 1",
        "4: first of 2",
    ]
    assert all(isinstance(took, float) and took > 0 for took in found.values())


def test_mixed_sizes_are_all_between_one_and_the_largest_and_always_the_same() -> None:
    sizes = mixed_sizes(64)
    assert sizes == mixed_sizes(64)
    assert (min(sizes), max(sizes)) == (1, 64)
    assert len(set(sizes)) > 50


def test_a_rate_counts_images_over_wall_time(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    ran: list[int] = []

    def infer(batch: np.ndarray) -> None:
        nonlocal now
        now += 0.01 * len(batch)
        ran.append(len(batch))

    monkeypatch.setattr("time.perf_counter", lambda: now)
    assert per_second(lambda: infer(np.zeros(4)), 1) == pytest.approx(25)
    assert mixed_rate(infer, np.zeros(64), 1) == pytest.approx(100)
    assert rate(Way("", "fp32", lambda size: infer), np.zeros(8), 1) == pytest.approx(100)


def test_without_tensorrt_the_reason_is_reported() -> None:
    assert tensorrt.unavailable()


def test_without_a_gpu_none_is_watched(tmp_path: Path) -> None:
    with http.gpu_use(Plan("cpu", True, tmp_path)) as use:
        pass
    assert use == {}


def test_a_gpu_is_watched_by_nvidia_smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = tmp_path / "told"
    program = tmp_path / "nvidia-smi"
    program.write_text(f"#!/bin/sh\necho '50, 1000'\necho '100, 3000'\necho 'broken'\ntouch {told}\nexec sleep 60\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with http.gpu_use(Plan("cuda", True, tmp_path)) as use:
        until(told.exists)
    assert use == {"GPU %": 75.0, "GPU MiB": 3000.0}


def test_what_is_too_short_to_be_watched_gets_one_look(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\nsleep 0.2\necho '50, 1000'\nexec sleep 60\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with http.gpu_use(Plan("cuda", True, tmp_path)) as use:
        pass
    assert use == {"GPU %": 50.0, "GPU MiB": 1000.0}


def test_the_service_gets_the_cuda_libraries_of_pytorch() -> None:
    maps = """\
7f00-7f01 r-xp 00000000 fe:00 1 /usr/lib/x86_64-linux-gnu/libc.so.6
7f01-7f02 r--p 00000000 fe:00 2                          /site-packages/nvidia/cu13/lib/libcudart.so.13
7f02-7f03 r-xp 00001000 fe:00 2                          /site-packages/nvidia/cu13/lib/libcudart.so.13
7f03-7f04 r-xp 00000000 fe:00 3                          /site packages/nvidia/cudnn/lib/libcudnn.so.9
7f04-7f05 rw-p 00000000 00:00 0
7f05-7f06 rw-p 00000000 00:00 0                          [stack]
"""
    assert library_folders(maps) == ["/site packages/nvidia/cudnn/lib", "/site-packages/nvidia/cu13/lib"]
