"""The service as benchmarks start it and load it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from prometheus_client.parser import text_string_to_metric_families

from benchmarks import wrk
from benchmarks.ports import free_ports
from benchmarks.processes import children, cpu_seconds
from service.runtime.providers import ProviderUnavailable


class Running(NamedTuple):
    """A service that is ready."""

    root: str  # URL
    pid: int
    ready_s: float  # from the start of the process until it answered as ready

    @property
    def url(self) -> str:
        return f"{self.root}/classify"

    def model(self) -> dict[str, Any]:
        """The entry of its only model in /models."""
        with urllib.request.urlopen(f"{self.root}/models") as response:
            (model,) = json.load(response)["models"]
        return dict(model)

    def counter(self, name: str, label: str) -> Counter[str]:
        """The values of a counter in /metrics, by one of its labels."""
        with urllib.request.urlopen(f"{self.root}/metrics") as response:
            families = text_string_to_metric_families(response.read().decode())
        found: Counter[str] = Counter()
        for sample in (sample for family in families for sample in family.samples if sample.name == name):
            found[sample.labels[label]] += int(sample.value)
        return found

    def pids(self) -> list[int]:
        """Its processes: the one that was started, and its workers."""
        return [self.pid, *children(self.pid)]

    def loaded(self, jpeg: bytes, *, connections: int, seconds: int) -> tuple[wrk.Load, float]:
        """A load by wrk, and the CPU-milliseconds per image that all processes of the service took. Raises as wrk."""
        pids = self.pids()
        before = cpu_seconds(pids)
        load = wrk.run(self.url, jpeg, connections=connections, seconds=seconds)
        return load, 1000 * (cpu_seconds(pids) - before) / (load.images_per_second * seconds)


def model_options(folder: Path) -> dict[str, object]:
    """Options of the service to serve one published model only, by the folder of its version."""
    return {"models-dir": folder.parent.parent, "models": folder.parent.name}


@contextmanager
def service(
    options: Mapping[str, object], tree: Path | None = None, variables: Mapping[str, str] | None = None
) -> Iterator[Running]:
    """`python -m service` with these options on a free port: that of this source tree, or of another.

    Args:
        variables: of the environment, besides those of this process.

    Raises:
        ProviderUnavailable: it did not start.
    """
    (port,) = free_ports(1)
    arguments = [f"--{name}={value}" for name, value in {**options, "port": port, "log-level": "error"}.items()]
    path = {} if tree is None else {"PYTHONPATH": str(tree)}
    environment = {**os.environ, **path, **(variables or {})}
    started = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-m", "service", *arguments], cwd=tree, env=environment)
    root = f"http://127.0.0.1:{port}"
    try:
        while process.poll() is None:
            try:
                with urllib.request.urlopen(f"{root}/healthz/ready"):
                    break
            except OSError:
                time.sleep(0.02)
        else:
            raise ProviderUnavailable(f"the service did not start with {' '.join(arguments)}")
        yield Running(root, process.pid, time.perf_counter() - started)
    finally:
        process.terminate()
        process.wait()
