"""Settings from every source, and their documentation."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from ipaddress import ip_network
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
    assert (settings.precision, settings.max_batch, settings.scaled_decoding) == ("auto", None, True)
    assert settings.cache_dir == Path.home() / ".cache" / "resnet-service"
    assert settings.engine_threads >= 1


def test_speed_can_be_given_up_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = ["--precision", "int8", "--max-batch", "16", "--cache-dir", "x/y", "--scaled-decoding", "false"]
    settings = read_settings(arguments)
    assert (settings.precision, settings.max_batch, settings.scaled_decoding) == ("int8", 16, False)
    assert settings.cache_dir == Path("x/y")
    monkeypatch.setenv("RESNET_PRECISION", "bf16")
    monkeypatch.setenv("RESNET_MAX_BATCH", "")  # as in a compose file whose variable is not set
    monkeypatch.setenv("RESNET_SCALED_DECODING", "false")
    settings = read_settings([])
    assert (settings.precision, settings.max_batch, settings.scaled_decoding) == ("bf16", None, False)


def test_the_home_folder_is_found_in_every_source(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert read_settings([]).cache_dir == tmp_path / ".cache" / "resnet-service"
    assert read_settings(["--cache-dir", "~/a"]).cache_dir == tmp_path / "a"
    assert Settings(cache_dir=Path("~/b")).cache_dir == tmp_path / "b"
    monkeypatch.setenv("RESNET_CACHE_DIR", "~/c")
    assert read_settings([]).cache_dir == tmp_path / "c"
    monkeypatch.setenv("RESNET_CACHE_DIR", "/d~/e")
    assert read_settings([]).cache_dir == Path("/d~/e")


def test_a_user_without_a_home_can_start_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)  # no HOME, and a user id that is not in passwd
    read_settings([])


@pytest.mark.parametrize(
    ("name", "value", "found"),
    [
        ("LOG_LEVEL", "INFO", "info"),
        ("PROVIDER", "CPU", "cpu"),
        ("PROVIDER", "Auto", "auto"),
        ("PRECISION", "Int8", "int8"),
    ],
)
def test_values_are_taken_in_any_case(monkeypatch: pytest.MonkeyPatch, name: str, value: str, found: str) -> None:
    monkeypatch.setenv(f"RESNET_{name}", value)
    assert getattr(read_settings([]), name.lower()) == found


def test_the_model_folder_may_lie_in_the_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("RESNET_MODELS_DIR", "~/models")
    assert read_settings([]).models_dir == tmp_path / "models"


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


def test_service_links_of_kubernetes_are_no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in SERVICE_LINKS.items():
        monkeypatch.setenv(name, value)
    assert read_settings([]).port == 8000
    monkeypatch.setenv("RESNET_PORT", "9000")
    assert read_settings([]).port == 9000
    monkeypatch.setenv("RESNET_PORT", "tcp")
    with pytest.raises(SettingsError, match="port: "):
        read_settings([])


@pytest.mark.parametrize("service", ["SERVICE", "API", "SERVICE_V2"])
def test_service_links_of_services_with_longer_names_are_none_either(
    monkeypatch: pytest.MonkeyPatch, service: str
) -> None:
    for name, value in SERVICE_LINKS.items():
        monkeypatch.setenv(name.replace("RESNET_", f"RESNET_{service}_"), value)
    assert read_settings([]).port == 8000
    monkeypatch.setenv("RESNET_API_V2_PORT", "80")
    with pytest.raises(SettingsError, match="RESNET_API_V2_PORT is not a setting"):
        read_settings([])


@pytest.mark.parametrize(
    ("name", "value", "found"),
    [
        ("LOG_LEVEL", "info", "info"),
        ("PROVIDER", "cpu", "cpu"),
        ("SCALED_DECODING", "false", False),
        ("MODELS_DIR", "/m", Path("/m")),
        ("DEFAULT_MODEL", "mine", "mine"),
        ("HOST", "0.0.0.0", "0.0.0.0"),
        ("ROOT_PATH", "/vision", "/vision"),
        ("PORT", "80", 80),
        ("MODELS", "a,b", ("a", "b")),
        ("MAX_WAIT_MS", "1.5", 1.5),
    ],
)
def test_line_ends_and_blanks_around_values_do_not_matter(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, found: object
) -> None:
    """Secrets and files often end with a line end."""
    for around in (f"{value}\n", f" {value}\r\n"):
        monkeypatch.setenv(f"RESNET_{name}", around)
        assert getattr(read_settings([]), name.lower()) == found


@pytest.mark.parametrize(
    ("options", "name", "found"),
    [
        (["--root-path", "/vision/"], "root_path", "/vision"),
        (["--root-path", "/"], "root_path", ""),
        (["--host", "[::1]"], "host", "::1"),
        (
            ["--cors-origins", "HTTPS://A.Example/, http://localhost:3000"],
            "cors_origins",
            ("https://a.example", "http://localhost:3000"),
        ),
        (["--cors-origins", "*"], "cors_origins", ("*",)),
        (["--trusted-proxies", ""], "trusted_proxies", ()),
        (["--trusted-proxies", "::1 10.0.0.0/8,"], "trusted_proxies", (ip_network("::1"), ip_network("10.0.0.0/8"))),
    ],
)
def test_what_is_meant_is_taken(options: list[str], name: str, found: object) -> None:
    assert getattr(read_settings(options), name) == found


def test_a_file_is_read_with_the_mark_that_editors_put_before_it() -> None:
    Path(".env").write_bytes(b"\xef\xbb\xbfRESNET_PORT=81\r\n# a word\r\nexport RESNET_HOST='::1'\r\n")
    assert (read_settings([]).port, read_settings([]).host) == (81, "::1")


@pytest.mark.parametrize("line", ["RESNET_PORT: 0", "set RESNET_PORT=0", "RESNET_PORT"])
def test_a_line_of_the_file_that_is_no_setting_is_named(line: str) -> None:
    Path(".env").write_text(f"OTHER=1\n{line}\n")
    with pytest.raises(
        SettingsError, match=rf"^\.env in .*, line 2: '{re.escape(line)}' is no setting: write NAME=value$"
    ):
        read_settings([])


def test_a_file_that_cannot_be_read_is_one_sentence() -> None:
    Path(".env").write_bytes("RESNET_PORT=1".encode("utf-16"))
    with pytest.raises(SettingsError, match=r"^\.env in .* cannot be read: it is not in UTF-8$"):
        read_settings([])


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
        (["--precision", "fp64"], "precision: .*'auto', 'fp32', 'bf16', 'fp16' or 'int8'"),
        (["--max-batch", "0"], r"max_batch: .*greater than or equal to 1 \(it is '0'\)"),
        (["--max-batch", "65"], r"max_batch: .*less than or equal to 64 \(it is '65'\)"),
        (["--scaled-decoding", "perhaps"], "scaled_decoding: .*boolean"),
        (["--shutdown-delay", "inf"], "shutdown_delay: .*finite"),
        (["--max-wait-ms", "nan"], "max_wait_ms: "),
        (["--root-path", "vision"], "root_path: vision is no prefix of a path: give one such as /vision"),
        (["--host", "127.0.0.1:80"], "host: 127.0.0.1:80 is more than an address"),
        (["--host", "http://0.0.0.0"], "host: http://0.0.0.0 is more than an address"),
        (["--trusted-proxies", "10.0.0.1/8"], "trusted_proxies: 10.0.0.1/8 has bits beyond its mask: give 10.0.0.0/8"),
        (["--trusted-proxies", "10.0.0.5,nginx"], "trusted_proxies: nginx is neither an address nor a network"),
        (["--trusted-proxies", "*"], r"trusted_proxies: \* is no network: give 0.0.0.0/0 to believe everybody"),
        (["--cors-origins", "a.example"], "cors_origins: a.example is no origin: give such as https://example.com"),
        (["--cors-origins", "https://*.example.com"], "cors_origins: .* is no origin"),
        (["--models-dir", "m\udcf6d"], r"models_dir: 'm\\udcf6d' is no UTF-8 text: rename the folder"),
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
