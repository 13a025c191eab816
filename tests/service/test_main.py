"""The command line of the service."""

from __future__ import annotations

import os

import pytest

from service.__main__ import main


def test_without_memfd_the_remedy_is_one_worker(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delattr(os, "memfd_create")  # as on macOS
    monkeypatch.delattr(os, "posix_fallocate")
    assert main(["--workers", "2"]) == 2
    assert caplog.messages == ["more than one worker needs Linux (memfd): set workers to 1"]
