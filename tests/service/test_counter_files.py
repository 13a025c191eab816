"""Counting alone, and counting together with other processes."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from service import counter_files


def run(program: str, **environment: str) -> str:
    """What a program prints, in a process that has imported nothing yet."""
    finished = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, env={**os.environ, **environment}
    )
    return finished.stdout


def test_counting_alone_ignores_the_folder_of_somebody_else(tmp_path: Path) -> None:
    program = """
from service import counter_files, metrics
counter_files.count_alone()
found = metrics.Metrics()
found.requests.labels("net", 200, "").inc()
print(found.text().decode())
"""
    folder = {"PROMETHEUS_MULTIPROC_DIR": str(tmp_path), "prometheus_multiproc_dir": str(tmp_path)}
    assert 'resnet_requests_total{model="net",problem="",status="200"} 1.0' in run(program, **folder)
    assert list(tmp_path.iterdir()) == []


def test_processes_that_count_together_show_their_sum() -> None:
    program = """
import subprocess, sys
from service import counter_files, metrics
count = "from service import counter_files, metrics; metrics.Metrics().requests.labels('net', 200, '').inc(2)"
with counter_files.count_together():
    for _ in range(2):
        subprocess.run([sys.executable, "-c", count], check=True)
    found = metrics.Metrics()
    found.requests.labels("net", 200, "").inc()
    print(found.text().decode())
"""
    assert 'resnet_requests_total{model="net",problem="",status="200"} 5.0' in run(program)


def test_the_gauges_of_a_process_that_has_ended_can_be_dropped() -> None:
    program = """
import subprocess, sys
from service import counter_files, metrics
count = "from service import metrics; metrics.Metrics().in_service.labels('net').inc(2); import os; print(os.getpid())"
with counter_files.count_together():
    pid = int(subprocess.run([sys.executable, "-c", count], check=True, capture_output=True, text=True).stdout)
    found = metrics.Metrics()
    print("resnet_images_in_service{" in found.text().decode())
    counter_files.forget_process(pid)
    print("resnet_images_in_service{" in found.text().decode())
"""
    assert run(program).split() == ["True", "False"]


WORKERS = """
import os, subprocess, sys
from pathlib import Path
from service import counter_files, metrics

COUNT = '''
import os
from service import counter_files, metrics
counter_files.reserve_counters()
found = metrics.Metrics()
found.requests.labels("net", 200, "").inc()
found.batch_size.labels("net").observe(3)
found.batch_size.labels("net").observe(100)
print(os.getpid())
'''

def a_worker():
    # Counts one request and two batches, and ends. Its process id.
    return int(subprocess.run([sys.executable, "-c", COUNT], check=True, capture_output=True, text=True).stdout)

def sums():
    lines = [line.split() for line in found.text().decode().splitlines() if not line.startswith("#")]
    counted = ("resnet_requests_total", "resnet_batch_size")
    return {name: float(value) for name, value in lines if name.startswith(counted)}

def files():
    names = [path.name for path in Path(os.environ[counter_files.FOLDER]).iterdir()]
    return sorted(name for name in names if f"_{os.getpid()}." not in name)
"""


def test_what_processes_counted_that_have_ended_stays_in_the_sums_and_takes_no_more_room() -> None:
    program = """
with counter_files.count_together():
    found = metrics.Metrics()
    alive = a_worker()
    for ended in range(1, 4):
        pid = a_worker()
        before = sums()
        assert before['resnet_requests_total{model="net",problem="",status="200"}'] == ended + 1, before
        assert before['resnet_batch_size_bucket{le="4.0",model="net"}'] == ended + 1, before
        assert before['resnet_batch_size_count{model="net"}'] == 2 * (ended + 1), before
        assert before['resnet_batch_size_sum{model="net"}'] == 103 * (ended + 1), before
        counter_files.forget_process(pid)
        assert sums() == before, sums()
        of_ended = [name for name in files() if f"_{alive}." not in name]
        assert of_ended == ["counter_ended.db", "histogram_ended.db"], of_ended
        sizes = [path.stat().st_size for path in Path(os.environ[counter_files.FOLDER]).glob("*_ended.db")]
        assert 0 < sum(sizes) < 2**14, sizes
"""
    run(WORKERS + program)


def test_while_the_files_are_read_they_stay_until_the_next_process_ends() -> None:
    program = """
from prometheus_client import exposition
read = exposition.generate_latest

def interrupted(registry):
    counter_files.forget_process(first)
    return read(registry)

with counter_files.count_together():
    found = metrics.Metrics()
    first, second = a_worker(), a_worker()
    before = sums()
    exposition.generate_latest = interrupted
    assert sums() == before
    assert f"counter_{first}.db" in files(), files()
    exposition.generate_latest = read
    counter_files.forget_process(second)
    assert files() == ["counter_ended.db", "histogram_ended.db"], files()
    assert sums() == before
"""
    run(WORKERS + program)


def test_without_room_for_the_sums_nothing_is_lost() -> None:
    program = """
import logging
logging.basicConfig()
with counter_files.count_together():
    found = metrics.Metrics()
    first, second = a_worker(), a_worker()
    before = sums()
    reserve, os.posix_fallocate = os.posix_fallocate, lambda *_: os.truncate("/nonexistent", 0)
    counter_files.forget_process(first)
    assert sums() == before
    assert f"counter_{first}.db" in files() and not [name for name in files() if "ended" in name], files()
    os.posix_fallocate = reserve
    counter_files.forget_process(second)
    assert sums() == before
    assert files() == ["counter_ended.db", "histogram_ended.db"], files()
"""
    run(WORKERS + program)


def test_a_process_without_room_leaves_nothing_behind() -> None:
    program = """
with counter_files.count_together():
    found = metrics.Metrics()
    os.posix_fallocate = lambda *_: os.truncate("/nonexistent", 0)
    for path in Path(os.environ[counter_files.FOLDER]).iterdir():
        path.unlink()
    try:
        counter_files.reserve_counters()
    except counter_files.NoFolder as error:
        print(error)
    assert list(Path(os.environ[counter_files.FOLDER]).iterdir()) == []
"""
    assert "has no room for 917504 bytes of counters" in run(WORKERS + program)


def test_the_room_of_33_processes_fits_32_megabytes() -> None:
    each = sum(counter_files.RESERVED.values())
    assert 33 * each + each < 32_000_000  # and that of those that have ended, twice while it is renewed


def test_25_models_fit_into_the_room_that_is_reserved_and_more_are_counted_too() -> None:
    program = """
from service.api.intake import count_from_zero

def count(models):
    for number in range(models):
        name = f"resnet152-imagenet-{number}"
        for stage in metrics.STAGES:
            found.stages.labels(model=name, stage=stage).observe(1)
        found.batch_size.labels(model=name).observe(1)
        found.in_service.labels(model=name).set(1)
        found.running.labels(model=name).set(1)
        found.confidence.labels(model=name).observe(0.5)
        for label in range(20):
            found.predicted.labels(name, f"a class with a name of some length {label}").inc()
        found.show_states([(f"resnet152-imagenet-{n}", "12", "ready") for n in range(number + 1)])
        found.model_is_ready(model=name, version="12", depth="152", variant="v1.5", provider="cpu", compute="fp32")
        for outcome in range(10):
            found.images.labels(name, f"some-problem-{outcome}").inc()
        count_from_zero(found, name)

def grown():
    here = Path(os.environ[counter_files.FOLDER])
    sizes = {kind: (here / f"{kind}_{os.getpid()}.db").stat().st_size for kind in counter_files.RESERVED}
    return [kind for kind in sizes if sizes[kind] > counter_files.RESERVED[kind]]

with counter_files.count_together():
    found = metrics.Metrics()
    count(25)
    assert grown() == [], grown()
    count(250)
    assert "histogram" in grown(), grown()
    assert found.text().decode().count("resnet_batch_size_count{") == 250
"""
    run(WORKERS + program)


def test_without_a_folder_for_temporary_files_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", "/nonexistent")
    with pytest.raises(counter_files.NoFolder, match="set TMPDIR"), counter_files.count_together():
        pass
