"""Clients of other servers, with another address: the commands of docs/clients-of-other-servers.md, and KServe's."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from tests.support.processes import Service

pytestmark = pytest.mark.e2e

KSERVE = Path(__file__).parent / "kserve_v1_client.py"
PAGE = Path(__file__).parent.parent.parent / "docs" / "clients-of-other-servers.md"
NAME = "resnet8-cifar"


@pytest.fixture
def service(tiny_dir: Path, start_service: Callable[..., Service]) -> Service:
    return start_service(tiny_dir, models=NAME, provider="cpu", max_batch=1)


@pytest.fixture
def probabilities(service: Service, photo: bytes) -> dict[int, float]:
    """Of all classes, by class id, the best first."""
    answer = httpx.post(f"{service.url}/classify?top_k=10", content=photo).json()
    return {one["class_id"]: one["probability"] for one in answer["images"][0]["predictions"]}


@pytest.mark.skipif(not shutil.which("curl"), reason="needs curl")
def test_the_commands_of_the_page(
    service: Service, photo: bytes, probabilities: dict[int, float], tmp_path: Path
) -> None:
    (tmp_path / "photo.jpg").write_bytes(photo + bytes(200_000))  # more than one argument of a command may have
    commands = [
        command
        for block in re.findall(r"^```sh\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
        for command in block.splitlines()
    ]
    answers = []
    for command in commands:
        text = command.replace("http://127.0.0.1:8000", service.url).replace("resnet50", NAME)
        text = text.replace("curl ", "curl --fail-with-body --silent --show-error ", 1)
        done = subprocess.run(["bash", "-euo", "pipefail", "-c", text], capture_output=True, text=True, cwd=tmp_path)
        assert done.returncode == 0, command + done.stdout + done.stderr
        answers.append(json.loads(done.stdout))
    predictions, status, vector, ping, put, form = answers
    every = [probabilities[class_id] for class_id in range(10)]
    assert predictions == {"predictions": [{"classes": next(iter(probabilities)), "probabilities": every}]}
    assert status["model_version_status"][0]["state"] == "AVAILABLE"
    assert vector == every
    assert ping == {"status": "Healthy"}
    assert put == form == {f"class {class_id}": probabilities[class_id] for class_id in list(probabilities)[:5]}


def test_kserves_client(service: Service, photo: bytes, probabilities: dict[int, float], tmp_path: Path) -> None:
    """In a Python of its own, named by KSERVE_PYTHON: its packages do not go together with those of `dev`."""
    python = os.environ.get("KSERVE_PYTHON")
    if not python:
        pytest.skip("KSERVE_PYTHON names no Python that has kserve")
    (tmp_path / "photo.jpg").write_bytes(photo)
    command = [python, str(KSERVE), service.url, NAME, str(tmp_path / "photo.jpg")]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["prediction"]["classes"] == next(iter(probabilities))
    not_base64, unknown = found["errors"]
    assert "instances[0].b64 is not base64" in not_base64
    assert "No model with the name nix" in unknown
