"""What a newcomer gets on a machine without a network: the demo, trained on the spot, once for all tests here."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def demo_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model folder after `python -m model_export quickstart` where nothing can be downloaded."""
    root = tmp_path_factory.mktemp("demo")
    offline = {"MODEL_EXPORT_WEIGHTS_URL": "http://127.0.0.1:9/", "TORCH_HOME": str(root / "empty-cache")}
    command = [sys.executable, "-m", "model_export", "quickstart", "--models-dir", str(root / "models")]
    finished = subprocess.run(command, env=os.environ | offline, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr
    (root / "models.log").write_text(finished.stderr)
    return root / "models"
