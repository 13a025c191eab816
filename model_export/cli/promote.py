"""The `promote` command: gives a version to clients, or to those that ask for an alias."""

from __future__ import annotations

import argparse

from model_export.cli.options import add_models_dir
from model_export.versions import find_version, promote
from service.runtime.model_state import STABLE


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("reference", metavar="NAME@VERSION", help="the version, by number or by another alias")
    parser.add_argument("--to", default=STABLE, metavar="ALIAS", help=f"the alias that it gets (default: {STABLE})")
    add_models_dir(parser)


def run(args: argparse.Namespace) -> int:
    name, number, _ = find_version(args.models_dir, args.reference)
    before = promote(args.models_dir, name, number, args.to)
    instead = f", instead of {before}" if before not in (None, number) else ""
    print(f"{name}@{args.to} is version {number}{instead}")
    return 0
