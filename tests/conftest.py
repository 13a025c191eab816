"""What several tests share: pictures, published models, and the service as a real process."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
import torch

from model_export.drawings import CLASSES, picture
from model_export.publish import publish
from model_export.random_weights import random_weights
from service.card import Architecture

STARTUP_S = 120


@pytest.fixture(scope="session", autouse=True)
def _cache_of_measurements(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Services that tests start, in this process or another, remember what they measured here and not at home."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RESNET_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def models_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two published models with random weights: `resnet18` (1000 classes, 224 pixels) and `resnet8-cifar` (10, 32)."""
    root = tmp_path_factory.mktemp("models")
    publish(random_weights(Architecture(depth=18)), root)
    publish(random_weights(Architecture(depth=8, family="cifar", shortcut="A", num_classes=10)), root)
    return root


@pytest.fixture(scope="session")
def photo() -> bytes:
    """A JPEG file."""
    return drawing("triangle")


def drawing(name: str, seed: int = 99) -> bytes:
    """A drawn JPEG of a class, from a seed that no model was trained on."""
    return picture(seed, CLASSES.index(name))


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


class Service:
    """`python -m service` as a process of its own."""

    def __init__(self, models_dir: Path, log: Path, **settings: object) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = log
        arguments = {"models_dir": models_dir, "port": self.port, **settings}
        options = [f"--{name.replace('_', '-')}={value}" for name, value in arguments.items()]
        with log.open("wb") as output:
            self.process = subprocess.Popen([sys.executable, "-m", "service", *options], stderr=output)

    def wait_until_ready(self) -> None:
        deadline = time.monotonic() + STARTUP_S
        while time.monotonic() < deadline:
            assert self.process.poll() is None, self.log.read_text()
            with contextlib.suppress(httpx.TransportError):
                if httpx.get(f"{self.url}/healthz/ready").status_code == 200:
                    return
            time.sleep(0.05)
        raise TimeoutError(self.log.read_text())

    def stop(self, with_signal: signal.Signals = signal.SIGTERM) -> int:
        """The exit status."""
        if self.process.poll() is None:
            os.kill(self.process.pid, with_signal)
        return self.process.wait(timeout=60)


@pytest.fixture
def start_service(tmp_path: Path) -> Iterator[Callable[..., Service]]:
    """Starts services and stops them afterwards: `start_service(models_dir, provider="cpu")`."""
    started: list[Service] = []

    def start(models_dir: Path, *, ready: bool = True, **settings: object) -> Service:
        service = Service(models_dir, tmp_path / f"service-{len(started)}.log", **settings)
        started.append(service)
        if ready:
            service.wait_until_ready()
        return service

    yield start
    for service in started:
        service.stop(signal.SIGKILL)


@pytest.fixture
def one_thread() -> Iterator[None]:
    """For nets too small to share out: threads that wait for each other are slow on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
