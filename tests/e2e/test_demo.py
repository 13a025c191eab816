"""The demo's training as a whole, by the command that made the file that ships."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from model_export.drawings import CLASSES
from model_export.weights import load_file

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(1800)]


def test_the_command_makes_an_equal_of_the_file_that_ships(tmp_path: Path) -> None:
    path = tmp_path / "demo.safetensors"
    command = [sys.executable, "-m", "model_export", "demo", "--out", str(path)]
    finished = subprocess.run(command, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr
    assert "of 600 held-out drawings recognised; SHA-256 " in finished.stdout
    loaded = load_file(path)
    assert tuple(label.name for label in loaded.labels) == CLASSES
    assert loaded.accuracy is not None
    assert loaded.accuracy.top1 >= 0.98
