"""The `remove` command: removes a version that nobody gets any more, or an alias."""

from __future__ import annotations

import argparse

from model_export.cli.options import add_models_dir
from model_export.errors import InputError
from model_export.versions import remove_alias, remove_version


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("reference", metavar="NAME@VERSION", help="a version by its number, or an alias, to remove")
    add_models_dir(parser)


def run(args: argparse.Namespace) -> int:
    name, separator, label = args.reference.partition("@")
    if not separator:
        raise InputError(f"say what to remove of {name}: {name}@NUMBER is a version, {name}@ALIAS an alias")
    if label.isdecimal():
        remove_version(args.models_dir, name, int(label))
        print(f"{name} {label} is removed")
    else:
        number = remove_alias(args.models_dir, name, label)
        print(f"{name}@{label} is removed; version {number} is still there")
    return 0
