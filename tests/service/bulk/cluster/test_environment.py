"""What a run on a cluster sets for Ray."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from service.bulk.cluster.environment import prepare


@pytest.fixture(autouse=True)
def _nothing_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("RAY_ENABLE_AUTO_CONNECT", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.setenv(name, "")  # put back after the test, also if it was not set
        monkeypatch.delenv(name)


@pytest.mark.parametrize("address", ["auto", "local", "host:6379"])
def test_ray_never_starts_by_itself(address: str) -> None:
    prepare(address)
    assert os.environ["RAY_ENABLE_AUTO_CONNECT"] == "0"
    assert "RAY_AUTH_MODE" not in os.environ


@pytest.mark.parametrize("where", ["RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "home"])
def test_a_token_is_presented_to_an_address(where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the nodes that `ray start` starts want it."""
    if where == "home":
        (tmp_path / ".ray").mkdir()
        (tmp_path / ".ray/auth_token").write_text("token")
    else:
        monkeypatch.setenv(where, "x")
    prepare("auto")
    assert "RAY_AUTH_MODE" not in os.environ  # Ray sees to it
    prepare("host:6379")
    assert os.environ["RAY_AUTH_MODE"] == "token"
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    prepare("host:6379")
    assert os.environ["RAY_AUTH_MODE"] == "disabled"
