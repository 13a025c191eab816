"""Without the extra, the service says what to install."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from service.__main__ import main
from service.grpc_api.installed import NEEDED, NotInstalled, check_installed

ROOT = Path(__file__).parents[3]


def test_here_it_is_installed() -> None:
    check_installed()


@pytest.mark.parametrize(("package", "module"), NEEDED.items())
def test_what_is_missing_is_named(package: str, module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr("service.grpc_api.installed.find_spec", lambda name: None if name == module else find(name))
    with pytest.raises(NotInstalled, match=rf"{package} is not installed: run pip install 'resnet-service\[grpc\]'"):
        check_installed()


def test_it_is_missed_before_the_start(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, no_settings: None
) -> None:
    monkeypatch.setattr("service.grpc_api.installed.find_spec", lambda name: None)
    assert main(["--grpc-port=8001"]) == 2
    assert caplog.messages == [
        "grpc_port is set, but grpcio is not installed: run pip install 'resnet-service[grpc]', or unset grpc_port"
    ]


def test_without_a_port_nothing_of_grpc_is_imported(tiny_dir: Path) -> None:
    program = f"""
import sys
for name in ("grpc", "grpc_health", "grpc_reflection"):
    sys.modules[name] = None  # an import fails
from pathlib import Path
from service.app import create_app
from service.settings import Settings
from starlette.testclient import TestClient
with TestClient(create_app(Settings(models_dir=Path({str(tiny_dir)!r}), provider="cpu", max_batch=1))) as client:
    while client.get("/healthz/ready").status_code != 200: pass
"""
    subprocess.run([sys.executable, "-c", program], check=True, cwd=ROOT, timeout=120)
