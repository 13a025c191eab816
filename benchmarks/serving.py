"""The service as a benchmark starts it, and what the system says of its process."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from service.providers import ProviderUnavailable


class Running(NamedTuple):
    """A service that is ready."""

    root: str  # URL
    pid: int
    ready_s: float  # from the start of the process until it answered as ready

    @property
    def url(self) -> str:
        return f"{self.root}/classify"

    def model(self) -> dict[str, Any]:
        """What it says of its only model."""
        with urllib.request.urlopen(f"{self.root}/models") as response:
            (model,) = json.load(response)["models"]
        return dict(model)


@contextmanager
def service(options: Mapping[str, object]) -> Iterator[Running]:
    """`python -m service` with these options, on a free port.

    Raises:
        ProviderUnavailable: it did not start.
    """
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    arguments = [f"--{name}={value}" for name, value in {**options, "port": port, "log-level": "error"}.items()]
    started = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-m", "service", *arguments])
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


def cpu_seconds(pid: int) -> float:
    """User and system time of a process so far."""
    return _seconds(Path(f"/proc/{pid}"))


def thread_seconds(pid: int) -> dict[int, float]:
    """CPU-seconds of every thread so far, by the system's id."""
    return {int(path.name): _seconds(path) for path in Path(f"/proc/{pid}/task").iterdir()}


def _seconds(path: Path) -> float:
    """User and system time of what /proc has under this path."""
    fields = (path / "stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100  # in ticks of 1/100 s


def resident_mb(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) / 1000


def proportional_mb(pids: Iterable[int]) -> float:
    """Memory of several processes (PSS): what they share counts once."""
    rollups = [Path(f"/proc/{pid}/smaps_rollup").read_text() for pid in pids]
    return sum(int(text.split("Pss:")[1].split()[0]) for text in rollups) / 1000


def children(pid: int) -> list[int]:
    """The processes that a process has started."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
