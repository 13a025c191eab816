"""What the tests of several commands share."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.folders import copied


@pytest.fixture
def models(models_dir: Path, tmp_path: Path) -> Path:
    """A model folder with `resnet8-cifar`, to write to."""
    copied(models_dir / "resnet8-cifar", tmp_path / "models" / "resnet8-cifar")
    return tmp_path / "models"
