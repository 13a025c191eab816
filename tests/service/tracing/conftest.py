"""Tracing as it is without a variable."""

from __future__ import annotations

import pytest

from tests.support.otlp import forget_variables


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    forget_variables(monkeypatch)
