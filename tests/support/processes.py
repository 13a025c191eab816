"""The service as a real process."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any, Self

import httpx
import pytest

from benchmarks.ports import free_ports
from tests.support.waiting import until

STARTUP_S = 120
JPEG = {"content-type": "image/jpeg"}


def free_port() -> int:
    (port,) = free_ports(1)
    return port


def listens(port: int) -> bool:
    """Whether a connection to this port is accepted."""
    with socket.socket() as sock:
        return sock.connect_ex(("127.0.0.1", port)) == 0


def request(method: str, url: str, **options: Any) -> httpx.Response:
    """As `httpx.request`, on a connection of its own, with time for a busy machine.

    It loads no certificates, which takes 20 ms of CPU.
    """
    return httpx.request(method, url, **{"verify": False, "timeout": 60, **options})


def answers_ready(url: str) -> bool:
    """Whether a service at this URL answers that it is ready."""
    try:
        return request("GET", f"{url}/healthz/ready").status_code == 200
    except httpx.TransportError:
        return False


def alive(pid: int) -> bool:
    """Whether a process runs; one that has ended but was not waited for does not."""
    try:
        return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


def starting_with(folder: Path, program: str) -> dict[str, str]:
    """An environment in which every Python process runs this program first."""
    (folder / "sitecustomize.py").write_text(program)
    path = os.pathsep.join(filter(None, (str(folder), os.environ.get("PYTHONPATH"))))
    return {**os.environ, "PYTHONPATH": path}


def before_each_batch(patch: pytest.MonkeyPatch, switch: Path, does: str) -> Path:
    """From now on, services that are started do something before each batch.

    Args:
        switch: a file, for now absent; its folder gets the program.
        does: a statement that may look for it: `if on(): time.sleep(1)`.
    """
    program = f"""import os, time
from service.runtime.engine import DynamicEngine
real = DynamicEngine.infer
def on():
    return os.path.exists({str(switch)!r})
def infer(self, *args, **options):
    {does}
    return real(self, *args, **options)
DynamicEngine.infer = infer
"""
    patch.setenv("PYTHONPATH", starting_with(switch.parent, program)["PYTHONPATH"])
    return switch


class Service:
    """`python -m service` as a process of its own. As a context manager it is ready, and killed at the end."""

    def __init__(self, models_dir: Path, log: Path, **settings: object) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = log
        arguments = {"models_dir": models_dir, "port": self.port, **settings}
        options = [f"--{name.replace('_', '-')}={value}" for name, value in arguments.items()]
        self._command = [sys.executable, "-m", "service", *options]
        self.start()

    def __enter__(self) -> Self:
        try:
            self.wait_until_ready()
        except BaseException:
            self.stop(signal.SIGKILL)
            raise
        return self

    def __exit__(self, *error: object) -> None:
        self.stop(signal.SIGKILL)

    def start(self) -> None:
        """Starts the process; again, on the same port, if it has ended."""
        with self.log.open("ab") as output:
            self.process = subprocess.Popen(self._command, stderr=output)

    def get(self, path: str, **options: Any) -> httpx.Response:
        return request("GET", self.url + path, **options)

    def post(self, path: str, **options: Any) -> httpx.Response:
        return request("POST", self.url + path, **options)

    def classify(self, jpeg: bytes, query: str = "", **options: Any) -> httpx.Response:
        """Posts one JPEG as the body: `service.classify(photo, "?depth=8")`."""
        return self.post(f"/classify{query}", content=jpeg, headers=JPEG, **options)

    def wait_until_ready(self) -> None:
        def ready() -> bool:
            assert self.process.poll() is None, self.log.read_text()
            return answers_ready(self.url)

        try:
            until(ready, STARTUP_S)
        except TimeoutError:
            raise TimeoutError(self.log.read_text()) from None

    def wait_until_all_listen(self) -> None:
        """With workers, the first one that listens already reports the service as ready."""
        until(lambda: "INFO service.lifecycle: ready: " in self.log.read_text())

    def stop(self, with_signal: signal.Signals = signal.SIGTERM) -> int:
        """The exit status."""
        if self.process.poll() is None:
            os.kill(self.process.pid, with_signal)
        return self.process.wait(timeout=60)
