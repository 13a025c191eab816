"""Fixtures of the service's tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture
def no_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No settings from the environment or from a file in the working folder."""
    for name in list(os.environ):
        if name.startswith("RESNET_"):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
