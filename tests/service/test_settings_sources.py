"""Settings from `.env`, the environment and the command line."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from service.settings_sources import SettingsError, read_settings

pytestmark = pytest.mark.usefixtures("no_settings")


def test_the_file_may_begin_with_a_byte_order_mark() -> None:
    Path(".env").write_bytes(b"\xef\xbb\xbfRESNET_PORT=81\r\n# a word\r\nexport RESNET_HOST='::1'\r\n")
    assert (read_settings([]).port, read_settings([]).host) == (81, "::1")


@pytest.mark.parametrize("line", ["RESNET_PORT: 0", "set RESNET_PORT=0", "RESNET_PORT"])
def test_a_malformed_line_of_the_file_is_named(line: str) -> None:
    Path(".env").write_text(f"OTHER=1\n{line}\n")
    with pytest.raises(SettingsError, match=rf"^\.env in .*, line 2: expected NAME=value, got '{re.escape(line)}'$"):
        read_settings([])


def test_an_unreadable_file_is_one_sentence() -> None:
    Path(".env").write_bytes("RESNET_PORT=1".encode("utf-16"))
    with pytest.raises(SettingsError, match=r"^\.env in .* cannot be read: it is not UTF-8$"):
        read_settings([])


def test_the_command_line_beats_the_environment_beats_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    Path(".env").write_text("RESNET_PORT=1\nRESNET_MAX_BATCH=2\nRESNET_MAX_IMAGES=64\n")
    monkeypatch.setenv("RESNET_PORT", "3")
    monkeypatch.setenv("RESNET_MAX_BATCH", "4")
    settings = read_settings(["--port", "5"])
    assert (settings.port, settings.max_batch, settings.max_images) == (5, 4, 64)


def test_unknown_settings_are_refused_with_a_suggestion(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RESNET_MAX_BACH", "8")
    with pytest.raises(SettingsError, match=r"RESNET_MAX_BACH is not a setting: did you mean RESNET_MAX_BATCH\?"):
        read_settings([])


def test_unknown_settings_in_the_file_are_refused_but_not_those_of_other_programs() -> None:
    Path(".env").write_text("COMPOSE_PROJECT_NAME=x\n")
    read_settings([])
    Path(".env").write_text("RESNET_WHAT=x\n")
    with pytest.raises(SettingsError, match="RESNET_WHAT is not a setting"):
        read_settings([])


# What a pod sees where a Service is called `resnet`.
SERVICE_LINKS = {
    "RESNET_PORT": "tcp://10.96.0.17:80",
    "RESNET_SERVICE_HOST": "10.96.0.17",
    "RESNET_SERVICE_PORT": "80",
    "RESNET_SERVICE_PORT_HTTP": "80",
    "RESNET_PORT_80_TCP": "tcp://10.96.0.17:80",
    "RESNET_PORT_80_TCP_PROTO": "tcp",
    "RESNET_PORT_80_TCP_PORT": "80",
    "RESNET_PORT_80_TCP_ADDR": "10.96.0.17",
}


def test_service_links_of_kubernetes_are_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in SERVICE_LINKS.items():
        monkeypatch.setenv(name, value)
    assert read_settings([]).port == 8000
    monkeypatch.setenv("RESNET_PORT", "9000")
    assert read_settings([]).port == 9000
    monkeypatch.setenv("RESNET_PORT", "tcp")
    with pytest.raises(SettingsError, match="port: "):
        read_settings([])


@pytest.mark.parametrize("service", ["SERVICE", "API", "SERVICE_V2"])
def test_service_links_of_longer_service_names_are_ignored_too(monkeypatch: pytest.MonkeyPatch, service: str) -> None:
    for name, value in SERVICE_LINKS.items():
        monkeypatch.setenv(name.replace("RESNET_", f"RESNET_{service}_"), value)
    assert read_settings([]).port == 8000
    monkeypatch.setenv("RESNET_API_V2_PORT", "80")
    with pytest.raises(SettingsError, match="RESNET_API_V2_PORT is not a setting"):
        read_settings([])


def test_unknown_options_are_refused() -> None:
    finished = subprocess.run([sys.executable, "-m", "service", "--prot", "1"], capture_output=True, text=True)
    assert finished.returncode == 2
    assert "--prot" in finished.stderr
