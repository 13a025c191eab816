"""What tests with Prometheus share: they are skipped where it is not installed."""

from __future__ import annotations

import os
import shutil

import pytest


def require_prometheus() -> None:
    """Skips the test where Prometheus is not installed; fails it in CI."""
    if shutil.which("prometheus") is None or shutil.which("promtool") is None:
        message = "Prometheus is not installed: run `make tools`"
        if "CI" in os.environ:
            pytest.fail(message)
        pytest.skip(message)
