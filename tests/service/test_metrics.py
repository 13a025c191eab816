"""Counting alone, and counting together with other processes."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from service import metrics


def run(program: str, **environment: str) -> str:
    """What a program prints, in a process that has imported nothing yet."""
    finished = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, env={**os.environ, **environment}
    )
    return finished.stdout


def test_counting_alone_ignores_the_folder_of_somebody_else(tmp_path: Path) -> None:
    program = """
from service import metrics
metrics.count_alone()
found = metrics.Metrics()
found.requests.labels("net", 200).inc()
print(found.text().decode())
"""
    folder = {"PROMETHEUS_MULTIPROC_DIR": str(tmp_path), "prometheus_multiproc_dir": str(tmp_path)}
    assert 'resnet_requests_total{model="net",status="200"} 1.0' in run(program, **folder)
    assert list(tmp_path.iterdir()) == []


def test_processes_that_count_together_show_their_sum() -> None:
    program = """
import subprocess, sys
from service import metrics
count = "from service import metrics; metrics.Metrics().requests.labels('net', 200).inc(2)"
with metrics.count_together():
    for _ in range(2):
        subprocess.run([sys.executable, "-c", count], check=True)
    found = metrics.Metrics()
    found.requests.labels("net", 200).inc()
    print(found.text().decode())
"""
    assert 'resnet_requests_total{model="net",status="200"} 5.0' in run(program)


def test_the_gauges_of_a_process_that_has_ended_can_be_dropped() -> None:
    program = """
import subprocess, sys
from service import metrics
count = "from service import metrics; metrics.Metrics().queue.labels('net').inc(2); import os; print(os.getpid())"
with metrics.count_together():
    pid = int(subprocess.run([sys.executable, "-c", count], check=True, capture_output=True, text=True).stdout)
    found = metrics.Metrics()
    print("resnet_queue_images{" in found.text().decode())
    metrics.forget_process(pid)
    print("resnet_queue_images{" in found.text().decode())
"""
    assert run(program).split() == ["True", "False"]


def test_without_a_folder_for_temporary_files_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", "/nonexistent")
    with pytest.raises(metrics.NoFolder, match="set TMPDIR"), metrics.count_together():
        pass
