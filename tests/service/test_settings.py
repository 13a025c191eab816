"""Settings: defaults, normalised values, ranges, and the help text."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from ipaddress import ip_network
from pathlib import Path

import pytest

from service.settings import Settings
from service.settings_memory import ORDINARY_BYTES
from service.settings_sources import SettingsError, read_settings

pytestmark = pytest.mark.usefixtures("no_settings")


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


def test_the_home_folder_is_expanded_in_every_source(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert read_settings([]).cache_dir == tmp_path / ".cache" / "resnet-service"
    assert read_settings(["--cache-dir", "~/a"]).cache_dir == tmp_path / "a"
    assert Settings(cache_dir=Path("~/b")).cache_dir == tmp_path / "b"
    monkeypatch.setenv("RESNET_CACHE_DIR", "~/c")
    assert read_settings([]).cache_dir == tmp_path / "c"
    assert read_settings(["--api-keys-file", "~/keys.toml"]).api_keys_file == tmp_path / "keys.toml"
    monkeypatch.setenv("RESNET_CACHE_DIR", "/d~/e")
    assert read_settings([]).cache_dir == Path("/d~/e")


def test_a_user_without_a_home_can_start_the_service(monkeypatch: pytest.MonkeyPatch) -> None:
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
def test_case_does_not_matter(monkeypatch: pytest.MonkeyPatch, name: str, value: str, found: str) -> None:
    monkeypatch.setenv(f"RESNET_{name}", value)
    assert getattr(read_settings([]), name.lower()) == found


def test_the_model_folder_may_lie_in_the_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("RESNET_MODELS_DIR", "~/models")
    assert read_settings([]).models_dir == tmp_path / "models"


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
def test_blanks_and_line_breaks_around_values_do_not_matter(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, found: object
) -> None:
    """Secrets and files often end with a line break."""
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
def test_values_are_normalised(options: list[str], name: str, found: object) -> None:
    assert getattr(read_settings(options), name) == found


def test_lists_are_separated_by_commas(monkeypatch: pytest.MonkeyPatch) -> None:
    assert read_settings(["--models", "a, b"]).models == ("a", "b")
    monkeypatch.setenv("RESNET_MODELS", "a,b,")
    assert read_settings([]).models == ("a", "b")


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
        (["--root-path", "vision"], "root_path: expected a path prefix such as /vision, got vision"),
        (
            ["--host", "127.0.0.1:80"],
            "host: expected an address such as .*, got 127.0.0.1:80: give the port with --port",
        ),
        (["--host", "http://0.0.0.0"], "host: expected an address .*, got http://0.0.0.0"),
        (["--trusted-proxies", "10.0.0.1/8"], "trusted_proxies: 10.0.0.1/8 has bits beyond its mask: give 10.0.0.0/8"),
        (["--trusted-proxies", "10.0.0.5,nginx"], "trusted_proxies: expected an address or a network .*, got nginx"),
        (["--trusted-proxies", "*"], r"trusted_proxies: not a network: \*. 0.0.0.0/0 trusts everybody"),
        (
            ["--cors-origins", "a.example"],
            "cors_origins: expected an origin such as https://example.com, .*, got a.example",
        ),
        (
            ["--cors-origins", "https://*.example.com"],
            r"cors_origins: expected an origin .*, got https://\*.example.com",
        ),
        (["--models-dir", "m\udcf6d"], r"models_dir: 'm\\udcf6d' is not UTF-8: correct it, or rename the folder"),
        (["--cors-origins", "m\udcf6d"], r"cors_origins: 'm\\udcf6d' is not UTF-8: correct it, or rename the folder"),
        (
            ["--memory-budget", "536870911"],
            r"memory_budget \(536870911\) is too small for max_request_bytes \(67108864\), max_images \(32\) and 1 "
            r"workers: set it to 575406080 or more, or lower one of them",
        ),
        (
            ["--memory-budget", "1000000000", "--decode-threads", "32"],
            r"memory_budget \(1000000000\) is too small for 32 decode threads in each worker",
        ),
        (["--target-wait-ms", "0"], "target_wait_ms: Input should be greater than 0"),
        (["--hang-timeout", "0.5"], "hang_timeout: Input should be greater than or equal to 1"),
        (["--admin-port", "8000"], "admin_port and port are both 8000: choose another, or unset admin_port"),
        (["--grpc-port", "8000"], "grpc_port and port are both 8000: choose another, or unset grpc_port"),
        (
            ["--admin-port", "9000", "--grpc-port", "9000"],
            "grpc_port and admin_port are both 9000: choose another, or unset grpc_port",
        ),
        (["--tls-key", "key.pem"], "tls_key is set without tls_certificate: set both"),
    ],
)
def test_values_out_of_range(arguments: list[str], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        read_settings(arguments)


def test_help_explains_every_setting() -> None:
    text = subprocess.run([sys.executable, "-m", "service", "--help"], capture_output=True, text=True).stdout
    assert text.startswith("usage: python -m service ")
    flat = " ".join(text.split())
    for python in ("None", "tuple", "False", "usable_cores", "()"):
        assert python not in text
    for name, field in Settings.model_fields.items():
        (value,) = re.findall(rf"^  --{name.replace('_', '-')} (\S+)", text, re.M)
        assert re.fullmatch(r"[A-Z]+(,\.\.\.)?|\{[a-z0-9,]+\}", value)
        assert f"RESNET_{name.upper()}" in text
        assert field.description
        assert " ".join(field.description.split()[:4]) in flat


@pytest.mark.parametrize("workers", [1, 4, 64])
@pytest.mark.parametrize("threads", [1, 2, 64])
def test_the_memory_budget_that_is_not_set_is_large_enough(workers: int, threads: int) -> None:
    settings = Settings(workers=workers, decode_threads=threads)
    assert settings.memory.requests >= 2 * settings.max_request_bytes
    assert settings.memory.large_images >= 64_000_000 * 8  # a picture of max_pixels in RGBA


def test_workers_share_threads_and_memory() -> None:
    settings = Settings(workers=4, decode_threads=6, memory_budget=4 * 10**9)
    assert settings.worker_decode_threads == 2
    assert settings.memory.requests == 250_000_000
    assert settings.memory.large_images == 750_000_000 - 2 * ORDINARY_BYTES
