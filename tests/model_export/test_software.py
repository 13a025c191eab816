"""Which software made a file."""

from __future__ import annotations

import subprocess
from importlib.metadata import version
from pathlib import Path

import pytest

from model_export import software
from service.runtime.build import COMMIT


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository with one commit of one file, which takes the place of the module's own."""
    git(tmp_path, "init", "-q")
    (tmp_path / "software.py").write_text("1\n")
    git(tmp_path, "add", "software.py")
    identity = ("-c", "user.name=x", "-c", "user.email=x@example.com", "-c", "commit.gpgsign=false")
    git(tmp_path, *identity, "commit", "-q", "-m", "first")
    monkeypatch.setattr(software, "__file__", str(tmp_path / "software.py"))
    monkeypatch.delenv(COMMIT, raising=False)
    return tmp_path


def git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(["git", "-C", str(folder), *arguments], check=True, capture_output=True, text=True)
    return done.stdout.strip()


def test_the_commit_of_a_checkout(checkout: Path) -> None:
    head = git(checkout, "rev-parse", "HEAD")
    assert software.commit() == head
    (checkout / "software.py").write_text("2\n")
    assert software.commit() == f"{head}-dirty"


def test_a_tag_does_not_hide_the_commit(checkout: Path) -> None:
    git(checkout, "tag", "v1")
    assert software.commit() == git(checkout, "rev-parse", "HEAD")


def test_the_build_knows_better(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(COMMIT, "abc123")
    assert software.commit() == "abc123"


def test_an_environment_within_a_checkout_is_not_part_of_it(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    installed = checkout / ".venv" / "software.py"
    installed.parent.mkdir()
    installed.write_text("1\n")
    monkeypatch.setattr(software, "__file__", str(installed))
    assert software.commit() is None


def test_without_git(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(checkout))
    assert software.commit() is None


def test_versions() -> None:
    found = software.tool_versions()
    assert {"python", "onnxruntime", "torch", "onnx", "numpy"} <= found.keys()
    assert found["torch"] == version("torch")
