"""Exemplars of several processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from service.counter_files import exemplars_file
from service.shared_exemplars import Exemplars, SharedHistogram
from tests.support.waiting import until

PROGRAM = '''
import os, subprocess, sys, time
from pathlib import Path
from prometheus_client.openmetrics.parser import text_string_to_metric_families
from service import counter_files, metrics

COUNT = """
import os, sys, time
from service import counter_files, metrics
number, value = int(sys.argv[1]), float(sys.argv[2])
found = metrics.Metrics(buckets=(1, 2.5))
found.stages.labels("net", "total").observe(value, {"trace_id": str(number)})
found.stages.labels("net", "total").observe(value)
file = counter_files.exemplars_file(os.environ[counter_files.FOLDER], os.getpid())
while not file.exists():
    time.sleep(0.01)
print(os.getpid())
"""

def process(number, value):
    """Observes a value twice, once with an exemplar. Its process id."""
    command = [sys.executable, "-c", COUNT, str(number), str(value)]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)

def exemplars():
    text = found.text("application/openmetrics-text;version=1.0.0").decode()
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    return {s.labels["le"]: (s.exemplar.labels["trace_id"], s.exemplar.value) for s in samples if s.exemplar}

with counter_files.count_together():
    found = metrics.Metrics(buckets=(1, 2.5))
    assert exemplars() == {}
    process(1, 0.5)
    newer, other = process(2, 1.0), process(3, 99.0)
    assert exemplars() == {"1.0": ("2", 1.0), "+Inf": ("3", 99.0)}, exemplars()
    assert "trace_id" not in found.text().decode()
    counter_files.forget_process(newer)
    assert exemplars() == {"1.0": ("1", 0.5), "+Inf": ("3", 99.0)}, exemplars()
    assert "resnet_stage_seconds_count" in found.text().decode()
'''


def test_the_newest_of_all_processes_is_shown() -> None:
    subprocess.run([sys.executable, "-c", PROGRAM], check=True)


def written(folder: Path) -> set[str]:
    """The traces of the exemplars that this process has written."""
    file = exemplars_file(str(folder), os.getpid())
    return {ids["trace_id"] for ids, _, _ in json.loads(file.read_text()).values()} if file.exists() else set()


def test_an_exemplar_that_cannot_be_written_costs_no_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = SharedHistogram(
        "seconds", "Of requests", ["path"], exemplars=Exemplars(str(tmp_path)), registry=CollectorRegistry()
    )

    def start(timer: threading.Timer) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patched:
        patched.setattr(threading.Timer, "start", start)
        seconds.labels("/a").observe(0.1, {"trace_id": "1"})
    seconds.labels("/b").observe(0.1, {"trace_id": "2"})
    until(lambda: written(tmp_path) == {"1", "2"}, 60)


def test_exemplars_stay_in_the_folder_that_they_were_made_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also if the process counts elsewhere, or alone, when they are due."""
    monkeypatch.delenv("PROMETHEUS_MULTIPROC_DIR", raising=False)
    Exemplars(str(tmp_path)).keep("bucket", {"trace_id": "1"}, 0.1)
    until(lambda: written(tmp_path) == {"1"}, 60)
