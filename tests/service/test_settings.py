"""Settings from every source, and their documentation."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from service.settings import Settings, SettingsError, read_settings


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No settings from outside."""
    for name in list(os.environ):
        if name.startswith("RESNET_"):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


def test_defaults() -> None:
    settings = read_settings([])
    assert (settings.port, settings.provider, settings.max_wait_ms) == (8000, "auto", 0)
    assert settings.engine_threads >= 1


def test_the_command_line_beats_the_environment_beats_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    Path(".env").write_text("RESNET_PORT=1\nRESNET_MAX_BATCH=2\nRESNET_MAX_QUEUE=64\n")
    monkeypatch.setenv("RESNET_PORT", "3")
    monkeypatch.setenv("RESNET_MAX_BATCH", "4")
    settings = read_settings(["--port", "5"])
    assert (settings.port, settings.max_batch, settings.max_queue) == (5, 4, 64)


def test_lists_are_separated_by_commas(monkeypatch: pytest.MonkeyPatch) -> None:
    assert read_settings(["--models", "a, b"]).models == ("a", "b")
    monkeypatch.setenv("RESNET_MODELS", "a,b,")
    assert read_settings([]).models == ("a", "b")


def test_unknown_settings_are_refused_with_what_was_meant(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RESNET_MAX_BACH", "8")
    with pytest.raises(SettingsError, match=r"RESNET_MAX_BACH is not a setting: did you mean RESNET_MAX_BATCH\?"):
        read_settings([])


def test_unknown_settings_in_the_file_are_refused_but_those_of_others_are_not_ours() -> None:
    Path(".env").write_text("COMPOSE_PROJECT_NAME=x\n")
    read_settings([])
    Path(".env").write_text("RESNET_WHAT=x\n")
    with pytest.raises(SettingsError, match="RESNET_WHAT is not a setting"):
        read_settings([])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--port", "70000"], r"port: .*less than or equal to 65535 \(it is '70000'\)"),
        (["--provider", "tpu"], "provider: .*'auto', 'cuda', 'openvino' or 'cpu'"),
        (["--max-queue", "8"], r"max_images \(32\) is above max_queue \(8\)"),
    ],
)
def test_values_out_of_range(arguments: list[str], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        read_settings(arguments)


def test_unknown_options_are_refused_by_the_program() -> None:
    finished = subprocess.run([sys.executable, "-m", "service", "--prot", "1"], capture_output=True, text=True)
    assert finished.returncode == 2
    assert "--prot" in finished.stderr


def test_help_explains_every_setting() -> None:
    text = subprocess.run([sys.executable, "-m", "service", "--help"], capture_output=True, text=True).stdout
    flat = " ".join(text.split())
    for name, field in Settings.model_fields.items():
        assert f"--{name.replace('_', '-')} " in text
        assert f"RESNET_{name.upper()}" in text
        assert field.description
        assert " ".join(field.description.split()[:4]) in flat
