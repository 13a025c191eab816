"""The `default` command: which model answers requests that name none."""

from __future__ import annotations

import argparse

from model_export.cli.options import add_models_dir
from model_export.versions import set_default
from service.runtime.model_state import read_folder_state


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "name", metavar="NAME", nargs="?", help="the model to make the default; without it, say which is"
    )
    add_models_dir(parser)


def run(args: argparse.Namespace) -> int:
    if args.name is not None:
        set_default(args.models_dir, args.name)
    default = read_folder_state(args.models_dir).default
    print(f"default model: {default}" if default else "no model is the default: choose one with `default NAME`")
    return 0
