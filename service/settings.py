"""The service's settings: defaults, then `.env`, then the environment, then the command line; unknown ones refused."""

from __future__ import annotations

import difflib
import os
import re
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_interface, ip_network
from pathlib import Path
from typing import Annotated, Literal

from dotenv.parser import Binding, parse_stream
from pydantic import Field, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, CliApp, NoDecode, SettingsConfigDict

from service.providers import PrecisionChoice, ProviderChoice, usable_cores

PREFIX = "RESNET_"
ENV_FILE = ".env"


class SettingsError(Exception):
    """A setting that is unknown or out of range; the message names it and the remedy."""


class Settings(BaseSettings):
    """Serve the published models of a folder over HTTP."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_file=ENV_FILE,
        env_file_encoding="utf-8-sig",
        env_ignore_empty=True,
        extra="ignore",  # `.env` may hold other programs' settings; `read_settings` refuses unknown RESNET_ ones
        frozen=True,
        cli_prog_name="python -m service",
        cli_kebab_case=True,
        cli_hide_none_type=True,
        cli_avoid_json=True,
        cli_show_env_vars=True,
    )

    host: str = Field(default="127.0.0.1", description="Address to listen on; 0.0.0.0 in a container.")
    port: int = Field(default=8000, ge=0, le=65535, description="Port to listen on; 0 takes a free one.")
    models_dir: Path = Field(default=Path("models"), description="The folder that `python -m model_export` fills.")
    models: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(), description="Names of the models to serve, separated by commas; empty serves all."
    )
    default_model: str | None = Field(
        default=None,
        description="The model that answers where a request names none; unset, the shallowest that is served.",
    )
    provider: ProviderChoice = Field(
        default="auto",
        description="Execution provider: cuda, openvino or cpu. `auto` measures at the first start and takes the "
        "fastest; any other value takes that one or refuses to start.",
    )
    gpu: int = Field(
        default=0,
        ge=0,
        description="Number of the GPU that computes, counted from 0 among those that the process sees. A service uses "
        "one GPU: start one for each.",
    )
    precision: PrecisionChoice = Field(
        default="auto",
        description="Precision of the arithmetic. `auto` takes the fastest by measurement: int8 and fp16 only from "
        "files that passed their gate, bf16 where the CPU has instructions for it. Any other value takes that one or "
        "refuses to start.",
    )
    workers: int = Field(
        default=1,
        ge=1,
        le=64,
        description="Processes that talk HTTP and decode. 1 does everything in one process; with more, one process "
        "besides them computes for all (Linux only). Worth it where one core's worth of Python is not enough: beside a "
        "GPU, or on more than about eight cores.",
    )
    engine_threads: int = Field(
        default_factory=usable_cores, ge=1, description="CPU cores that one batch may use; unset, all of them."
    )
    decode_threads: int = Field(
        default_factory=usable_cores,
        ge=1,
        description="Images decoded at the same time; unset, one per core. Workers share them out.",
    )
    max_batch: int | None = Field(
        default=None,
        ge=1,
        le=64,
        description="The largest batch, in images; unset, measured at the first start: batches grow for as long as the "
        "engine gets faster by it.",
    )
    cache_dir: Path = Field(
        default=Path("~/.cache/resnet-service"),
        description="Where such measurements are kept, so that the next start is quick.",
    )
    scaled_decoding: bool = Field(
        default=True,
        description="Let the JPEG decoder shrink large photographs while it decodes: up to ten times faster, with "
        "pixels that differ a little from training's. `false` decodes every photograph whole.",
    )
    max_wait_ms: float = Field(
        default=0.0,
        ge=0,
        le=1000,
        allow_inf_nan=False,
        description="How long a batch that is not full waits for more, in milliseconds. 0 never waits, which is "
        "fastest for one client and for many.",
    )
    max_queue: int = Field(
        default=256,
        ge=1,
        description="Images per model that may be in the service at once; beyond it requests get 503.",
    )
    max_images: int = Field(default=32, ge=1, description="Images in one request.")
    max_image_bytes: int = Field(default=20 * 2**20, ge=1, description="Bytes of one image.")
    max_request_bytes: int = Field(default=64 * 2**20, ge=1, description="Bytes of one form.")
    max_pixels: int = Field(
        default=64_000_000, ge=1, description="Pixels (width x height) of one image, checked before it is decoded."
    )
    root_path: str = Field(
        default="",
        description="The prefix under which a proxy shows the service, such as /vision: for `/docs` and for links.",
    )
    trusted_proxies: Annotated[tuple[IPv4Network | IPv6Network, ...], NoDecode] = Field(
        default=(),
        description="Addresses or networks of proxies, separated by commas, whose X-Forwarded-Proto, -Host and -Prefix "
        "are believed; empty believes nobody.",
    )
    cors_origins: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(),
        description="Origins, separated by commas, whose pages may ask from a browser (https://example.com); `*` is "
        "any, empty none.",
    )
    shutdown_delay: float = Field(
        default=1.0,
        ge=0,
        allow_inf_nan=False,
        description="Seconds between SIGTERM, when readiness goes off, and the closing of the port: the time that a "
        "load balancer is given to look elsewhere.",
    )
    shutdown_timeout: int = Field(
        default=30, ge=1, description="Seconds that requests in flight have to finish when shutting down."
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="Least severe log line."
    )

    @field_validator("trusted_proxies", mode="before")
    @classmethod
    def _networks(cls, value: object) -> object:
        return tuple(_network(text) for text in value) if isinstance(value, tuple) else value

    @field_validator("cors_origins")
    @classmethod
    def _origins(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(_origin(text) for text in value)

    @field_validator("models", "trusted_proxies", "cors_origins", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        return tuple(filter(None, re.split(r"[,\s]+", value))) if isinstance(value, str) else value

    @field_validator("host")
    @classmethod
    def _address(cls, value: str) -> str:
        bare = value[1:-1] if value.startswith("[") and value.endswith("]") else value
        if "/" in bare or (":" in bare and not _is_ipv6(bare)):
            raise ValueError(f"{value} is more than an address: give such as 0.0.0.0 or ::1, and the port with --port")
        return bare

    @field_validator("root_path")
    @classmethod
    def _prefix(cls, value: str) -> str:
        if not re.fullmatch(r"/|(/[A-Za-z0-9._~-]+)*/?", value):
            raise ValueError(f"{value} is no prefix of a path: give one such as /vision")
        return value.rstrip("/")

    @field_validator("provider", "precision", "log_level", mode="before")
    @classmethod
    def _in_any_case(cls, value: object) -> object:
        return value.lower() if isinstance(value, str) else value

    @field_validator("cache_dir", "models_dir")
    @classmethod
    def _home(cls, path: Path) -> Path:
        try:
            str(path).encode()
        except UnicodeEncodeError:
            raise ValueError(f"{str(path)!a} is no UTF-8 text: rename the folder") from None
        try:
            return path.expanduser()
        except RuntimeError:  # a user without a home
            return Path(tempfile.gettempdir()) / path.name

    # The last before-validator, which is the first to run: what comes from a file often ends with a line end.
    @field_validator("*", mode="before")
    @classmethod
    def _stripped(cls, value: object) -> object:
        return value.strip() if isinstance(value, str) else value

    @model_validator(mode="after")
    def _consistent(self) -> Settings:
        if self.max_images > self.max_queue:
            raise ValueError(f"max_images ({self.max_images}) is above max_queue ({self.max_queue})")
        return self


def read_settings(arguments: Sequence[str], environment: Mapping[str, str] = os.environ) -> Settings:
    """The settings from all sources; `--help` prints them and exits.

    Raises:
        SettingsError: one is unknown or out of range.
    """
    known = {PREFIX + name.upper() for name in Settings.model_fields}
    given: dict[str, str | None] = {**_in_file(), **environment}
    for name, value in given.items():
        if _is_service_link(name.upper(), value or ""):
            os.environ.pop(name, None)
        elif name.upper().startswith(PREFIX) and name.upper() not in known:
            close = difflib.get_close_matches(name.upper(), known, n=1)
            hint = f"did you mean {close[0]}?" if close else "`python -m service --help` lists them"
            raise SettingsError(f"{name} is not a setting: {hint}")
    try:
        return CliApp.run(Settings, cli_args=list(arguments))
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(map(str, first["loc"])) or "settings"
        message = re.sub(r"^Value error, ", "", first["msg"])
        value = "" if first["type"] == "value_error" else f" (it is {first['input']!r})"
        raise SettingsError(f"{name}: {message}{value}; `python -m service --help` explains each setting") from None


def _in_file() -> dict[str, str | None]:
    """What `.env` in the working folder holds; nothing where there is none.

    Raises:
        SettingsError: it cannot be read, or a line is no setting.
    """
    path = Path(ENV_FILE)
    try:
        with path.open(encoding="utf-8-sig") as stream:
            bindings: list[Binding] = list(parse_stream(stream))
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError) as error:
        fault = error.strerror if isinstance(error, OSError) else "it is not in UTF-8"
        raise SettingsError(f"{ENV_FILE} in {Path.cwd()} cannot be read: {fault}") from None
    for binding in bindings:
        if binding.error or (binding.value is None and (binding.key or "").upper().startswith(PREFIX)):
            line = binding.original
            raise SettingsError(
                f"{ENV_FILE} in {Path.cwd()}, line {line.line}: {line.string.strip()!r} is no setting: write NAME=value"
            )
    return {binding.key: binding.value for binding in bindings if binding.key}


def _network(text: str) -> IPv4Network | IPv6Network:
    bare = text.removeprefix("[").replace("]", "")
    with suppress(ValueError):
        return ip_network(bare)
    if text == "*":
        raise ValueError("* is no network: give 0.0.0.0/0 to believe everybody, which only a closed network may")
    try:
        meant = ip_interface(bare).network
    except ValueError:
        raise ValueError(f"{text} is neither an address nor a network: give such as 10.0.0.5 or 10.0.0.0/8") from None
    raise ValueError(f"{text} has bits beyond its mask: give {meant}")


def _origin(text: str) -> str:
    """As browsers send it: in lower case, without a path (RFC 6454, section 6.2)."""
    origin = text.lower().rstrip("/")
    if origin != "*" and not re.fullmatch(r"https?://([a-z0-9._-]+|\[[0-9a-f:.]+\])(:\d+)?", origin):
        raise ValueError(f"{text} is no origin: give such as https://example.com, or * for any")
    return origin


def _is_ipv6(text: str) -> bool:
    try:
        IPv6Address(text)
    except ValueError:
        return False
    return True


def _is_service_link(name: str, value: str) -> bool:
    """Whether a variable is what Kubernetes tells every container of a Service whose name begins with `resnet`.

    Those are in nobody's hand, and no settings: RESNET_PORT=tcp://10.0.0.1:80, RESNET_SERVICE_HOST, and so on, or of a
    Service `resnet-api` RESNET_API_PORT_80_TCP (Kubernetes, "Service", environment variables).
    `enableServiceLinks: false` in the pod stops them.
    """
    of_ports = r"PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?"
    if re.fullmatch(rf"{PREFIX}(\w+_)?(SERVICE_(HOST|PORT(_\w+)?)|{of_ports})", name):
        return True
    of_addresses = re.fullmatch(rf"{PREFIX}(\w+_)?PORT", name)
    return bool(of_addresses and re.fullmatch(r"(tcp|udp|sctp)://\S+:\d+", value))


def settings_table() -> str:
    """The settings as a Markdown table, for docs/settings.md."""
    rows = ["| environment and `.env` | command line | default | meaning |", "|---|---|---|---|"]
    for name, field in Settings.model_fields.items():
        default = field.default if field.default_factory is None else "number of cores"
        if isinstance(default, tuple | None):
            default = ",".join(default or ()) or "(unset)"
        option = "--" + name.replace("_", "-")
        rows.append(f"| `{PREFIX}{name.upper()}` | `{option}` | {default} | {field.description} |")
    return "\n".join(rows) + "\n"
