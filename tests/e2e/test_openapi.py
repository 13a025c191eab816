"""schemathesis reads the OpenAPI document of a running service, and sends what it allows and what it forbids.

No answer is a 5xx or has a status, a media type or a body that the document does not name; what the document allows is
accepted, and what it forbids is refused.
"""

from __future__ import annotations

import hashlib
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
TOKEN = "token"


@pytest.fixture
def keys_file(tmp_path: Path) -> Path:
    path = tmp_path / "keys.toml"
    digest = hashlib.sha256(TOKEN.encode()).hexdigest()
    path.write_text(f'[all]\nsha256 = "{digest}"\nscopes = ["classify", "metrics", "admin"]\n')
    return path


def found(service: Service, folder: Path, *options: str) -> int:
    """Runs schemathesis over the service. Checks that it finds nothing; returns how many requests it sent."""
    command = [sys.executable, "-m", "schemathesis.cli", "--config-file", str(HERE / "schemathesis.toml"), "run"]
    environment = {**os.environ, "SCHEMATHESIS_HOOKS": str(HERE / "hooks.py")}
    arguments = [f"{service.url}/openapi.json", "--continue-on-failure", "--no-color", *options]
    done = subprocess.run(command + arguments, capture_output=True, text=True, cwd=folder, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    cases = re.search(r"(\d+) generated, \1 passed", done.stdout)
    assert cases, done.stdout
    return int(cases[1])


@pytest.mark.parametrize("cases", [8, pytest.param(300, marks=[pytest.mark.slow, pytest.mark.timeout(1800)])])
@pytest.mark.parametrize("keys", [pytest.param(False, marks=pytest.mark.slow), True])
def test_the_document_is_true(
    tiny_dir: Path, tmp_path: Path, keys_file: Path, start_service: Callable[..., Service], keys: bool, cases: int
) -> None:
    # One model: the document gives the most classes that any model has, for all of them.
    settings = {"models": "resnet8-cifar", "provider": "cpu", "max_batch": 1}
    service = start_service(tiny_dir, **settings, **({"api_keys_file": keys_file} if keys else {}))
    authorized = ("--header", f"Authorization: Bearer {TOKEN}") if keys else ()
    sent = found(service, tmp_path, "--max-examples", str(cases), *authorized)
    assert sent > 100
    assert service.stop(signal.SIGTERM) == 0
    assert "Traceback" not in service.log.read_text()
