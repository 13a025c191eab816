"""The OpenAPI document of the Open Inference Protocol, as its authors publish it, holds for this service.

schemathesis sends what it allows and what it forbids: no answer is a 5xx, or has a status or a body that it does not
name, and what it forbids is refused.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.processes import Service

pytestmark = pytest.mark.e2e

HERE = Path(__file__).parent / "openapi"
MODEL = "resnet8-cifar"


@pytest.mark.slow
@pytest.mark.parametrize("cases", [5, pytest.param(300, marks=pytest.mark.timeout(1800))])
def test_the_document_is_true(
    tiny_dir: Path, tmp_path: Path, start_service: Callable[..., Service], cases: int
) -> None:
    service = start_service(tiny_dir, models=MODEL, provider="cpu", max_batch=1)
    document = tmp_path / "open_inference.yaml"
    # It writes `${MODEL_NAME}`, as its text does; in a path of OpenAPI, that is a dollar sign before the parameter.
    document.write_text((HERE / "open_inference_rest.yaml").read_text().replace("/${", "/{"))
    command = [sys.executable, "-m", "schemathesis.cli", "--config-file", str(HERE / "open_inference.toml"), "run"]
    arguments = [
        str(document),
        f"--url={service.url}",
        "--continue-on-failure",
        "--no-color",
        f"--max-examples={cases}",
    ]
    environment = {**os.environ, "SCHEMATHESIS_HOOKS": str(HERE / "open_inference_hooks.py")}
    done = subprocess.run([*command, *arguments], capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    found = re.search(r"(\d+) generated, \1 passed", done.stdout)
    assert found, done.stdout
    assert int(found[1]) > 50
    log = service.log.read_text()
    assert re.search(r"POST /v2/models/resnet8-cifar/versions/1/infer 200 ", log)
    assert re.search(r"POST /v2/models/resnet8-cifar/versions/1/infer 400 ", log)
    assert service.stop(signal.SIGTERM) == 0
    assert "Traceback" not in service.log.read_text()
