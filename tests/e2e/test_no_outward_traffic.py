"""The programs connect to nothing outside: a preloaded library logs every name and address they ask for."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.processes import Service

pytestmark = pytest.mark.e2e

LOOPBACK = {"127.0.0.1", "::1"}


@pytest.fixture
def watched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], set[str]]:
    """Watches the programs that start from now on, in an empty home; returns the names and addresses they asked for."""
    compiler = shutil.which("cc")
    if compiler is None or sys.platform != "linux":
        pytest.skip("needs Linux and a C compiler")
    library, log, home = tmp_path / "resolver.so", tmp_path / "log", tmp_path / "home"
    source = Path(__file__).with_name("resolver.c")
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True)
    home.mkdir()
    for name in ("XDG_CACHE_HOME", "XDG_DATA_HOME", "ORT_DISABLE_TELEMETRY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("LD_PRELOAD", str(library))
    monkeypatch.setenv("RESOLVER_LOG", str(log))
    monkeypatch.setenv("HOME", str(home))
    return lambda: set(log.read_text().splitlines()) if log.exists() else set()


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_connections_are_logged(watched: Callable[[], set[str]]) -> None:
    program = """
import socket
try: socket.getaddrinfo("somewhere.invalid", 80)
except OSError: pass
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s: s.connect(("127.0.0.9", 9))
"""
    subprocess.run([sys.executable, "-c", program], check=True)
    assert watched() == {"somewhere.invalid", "127.0.0.9"}


def test_the_service_connects_to_nothing_and_leaves_only_its_tuning_cache(
    watched: Callable[[], set[str]],
    tiny_dir: Path,
    photo: bytes,
    tmp_path: Path,
    start_service: Callable[..., Service],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("RESNET_CACHE_DIR")
    service = start_service(tiny_dir, provider="cpu", models="resnet8-cifar")
    for _ in range(3):
        assert service.classify(photo).status_code == 200
    assert service.stop() == 0
    assert watched() <= LOOPBACK
    (measured,) = files(tmp_path / "home")
    assert measured.startswith(".cache/resnet-service/tuning-")


@pytest.mark.slow
def test_model_export_connects_to_nothing_and_leaves_nothing(watched: Callable[[], set[str]], tmp_path: Path) -> None:
    at = ["--models-dir", str(tmp_path / "models")]
    for command in (
        ["export", "--weights", "random", "--family", "cifar", "--depth", "8", *at],
        ["verify", "--provider", "cpu", *at],
    ):
        finished = subprocess.run([sys.executable, "-m", "model_export", *command], capture_output=True, text=True)
        assert finished.returncode == 0, finished.stderr
    assert watched() <= LOOPBACK
    assert files(tmp_path / "home") == []
