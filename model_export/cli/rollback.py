"""The `rollback` command: gives clients the version that they had before."""

from __future__ import annotations

import argparse

from model_export.cli.options import add_models_dir
from model_export.versions import rollback
from service.runtime.model_state import STABLE


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="name of a published model")
    add_models_dir(parser)


def run(args: argparse.Namespace) -> int:
    before, now = rollback(args.models_dir, args.name)
    print(f"{args.name}@{STABLE} is version {now}, instead of {before}")
    return 0
