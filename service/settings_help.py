"""How `--help` and docs/settings.md show the settings: what their values look like, and their defaults."""

from __future__ import annotations

import argparse

from pydantic.fields import FieldInfo

from service.settings import PREFIX, Settings

BY_TYPE = {"int": "N", "float": "N", "bool": "{true,false}"}
BY_NAME = {
    "host": "HOST",
    "models_dir": "DIR",
    "models": "NAME,...",
    "default_model": "NAME",
    "cache_dir": "DIR",
    "root_path": "PREFIX",
    "trusted_proxies": "CIDR,...",
    "cors_origins": "ORIGIN,...",
    "api_keys_file": "FILE",
    "tls_certificate": "FILE",
    "tls_key": "FILE",
    "metrics_buckets": "SECONDS,...",
    "keep_failed": "DIR",
}


def explain(parser: argparse.ArgumentParser) -> None:
    """Rewrites what the parser of `CliSettingsSource` says of each setting, which is in Python's types and values."""
    for action in parser._actions:
        if (field := Settings.model_fields.get(action.dest)) is None:
            continue
        shown = str(action.metavar)  # of choices it is {this,that}
        action.metavar = BY_NAME.get(action.dest) or BY_TYPE.get(shown, shown)
        default = default_of(field)
        text = f"{field.description}{f' (default: {default})' if default else ''} [env: {PREFIX}{action.dest.upper()}]"
        action.help = text.replace("%", "%%")


def default_of(field: FieldInfo) -> str | None:
    """The default as one would write it; None if the setting is unset then."""
    if field.default_factory is not None:
        return "number of cores"
    default = field.default
    if isinstance(default, bool):
        return str(default).lower()
    if isinstance(default, float):
        return f"{default:g}"
    if isinstance(default, tuple):
        return ",".join(f"{one:g}" for one in default) or None
    return None if default is None else str(default) or None
