"""Exemplars of several processes."""

from __future__ import annotations

import subprocess
import sys

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
