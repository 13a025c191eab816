"""Reads the settings from `.env`, the environment and the command line, and refuses unknown ones."""

from __future__ import annotations

import argparse
import difflib
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from dotenv.parser import Binding, parse_stream
from pydantic import ValidationError
from pydantic_settings import CliApp, CliSettingsSource

from resnet_commands import called
from service.settings import ENV_FILE, PREFIX, Settings
from service.settings_help import explain


class SettingsError(Exception):
    """A setting is unknown or out of range; the message names it and the remedy."""


def read_settings(arguments: Sequence[str], environment: Mapping[str, str] = os.environ) -> Settings:
    """The settings from all sources, of which the later win: defaults, `.env`, the environment, the command line.

    `--help` prints them and exits.

    Raises:
        SettingsError: one is unknown or out of range.
    """
    known = {PREFIX + name.upper() for name in Settings.model_fields}
    given: dict[str, str | None] = {**_read_env_file(), **environment}
    for name, value in given.items():
        if _is_service_link(name.upper(), value or ""):
            os.environ.pop(name, None)
        elif name.upper().startswith(PREFIX) and name.upper() not in known:
            close = difflib.get_close_matches(name.upper(), known, n=1)
            hint = f"did you mean {close[0]}?" if close else f"`{called('service')} --help` lists them"
            raise SettingsError(f"{name} is not a setting: {hint}")
    source: CliSettingsSource[argparse.ArgumentParser] = CliSettingsSource(Settings, cli_prog_name=called("service"))
    explain(source.root_parser)
    try:
        return CliApp.run(Settings, list(arguments), source)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(map(str, first["loc"])) or "settings"
        message = re.sub(r"^Value error, ", "", first["msg"])
        value = "" if first["type"] == "value_error" else f" (it is {first['input']!r})"
        raise SettingsError(f"{name}: {message}{value}; `{called('service')} --help` explains each setting") from None


def _read_env_file() -> dict[str, str | None]:
    """The content of `.env` in the working folder, if there is one.

    Raises:
        SettingsError: it cannot be read, or a line is not a setting.
    """
    path = Path(ENV_FILE)
    try:
        with path.open(encoding="utf-8-sig") as stream:
            bindings: list[Binding] = list(parse_stream(stream))
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError) as error:
        fault = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise SettingsError(f"{ENV_FILE} in {Path.cwd()} cannot be read: {fault}") from None
    for binding in bindings:
        if binding.error or (binding.value is None and (binding.key or "").upper().startswith(PREFIX)):
            line = binding.original
            raise SettingsError(
                f"{ENV_FILE} in {Path.cwd()}, line {line.line}: expected NAME=value, got {line.string.strip()!r}"
            )
    return {binding.key: binding.value for binding in bindings if binding.key}


def _is_service_link(name: str, value: str) -> bool:
    """Whether Kubernetes set this variable for a Service whose name begins with `resnet`.

    It sets such variables in every container of the namespace: RESNET_PORT=tcp://10.0.0.1:80, RESNET_SERVICE_HOST and
    so on; for a Service `resnet-api`, RESNET_API_PORT_80_TCP (Kubernetes, "Service", environment variables). They are
    not settings. `enableServiceLinks: false` in the pod stops them.
    """
    of_ports = r"PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?"
    if re.fullmatch(rf"{PREFIX}(\w+_)?(SERVICE_(HOST|PORT(_\w+)?)|{of_ports})", name):
        return True
    of_addresses = re.fullmatch(rf"{PREFIX}(\w+_)?PORT", name)
    return bool(of_addresses and re.fullmatch(r"(tcp|udp|sctp)://\S+:\d+", value))
