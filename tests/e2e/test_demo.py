"""The demo's whole training, with the command that made the weights in the package."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from model_export.drawings.pictures import CLASSES
from model_export.weights.loading import load_file

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(1800)]


def test_the_command_trains_weights_as_good_as_those_in_the_package(tmp_path: Path) -> None:
    path = tmp_path / "demo.safetensors"
    command = [sys.executable, "-m", "model_export", "demo", "--out", str(path)]
    finished = subprocess.run(command, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr
    assert "of 600 held-out drawings classified correctly; SHA-256 " in finished.stdout
    loaded = load_file(path)
    assert tuple(label.name for label in loaded.labels) == CLASSES
    assert loaded.accuracy is not None
    assert loaded.accuracy.top1 >= 0.98
