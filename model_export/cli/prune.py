"""The `prune` command: removes old versions, and what killed commands have left."""

from __future__ import annotations

import argparse

from model_export.cli.options import add_models_dir, positive
from model_export.errors import InputError
from model_export.leftovers import remove_leftovers
from model_export.versions import latest_numbers, prune
from service.runtime.model_folder import explain_empty


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", nargs="?", help="name of a published model (default: all models)")
    parser.add_argument(
        "--keep",
        type=positive,
        default=3,
        metavar="N",
        help="of the latest versions; those with an alias, and the one before the stable one, stay too (default: 3)",
    )
    add_models_dir(parser)


def run(args: argparse.Namespace) -> int:
    left = remove_leftovers(args.models_dir)  # first: a killed first export leaves nothing else, and so no model
    for path in left:
        print(f"{path}: removed; a command that was killed had left it")
    names = list(latest_numbers(args.models_dir)) if args.name is None else [args.name]
    if not names and not left:
        raise InputError(explain_empty(args.models_dir))
    for name in names:
        removed = prune(args.models_dir, name, args.keep)
        print(f"{name}: removed {', '.join(map(str, removed))}" if removed else f"{name}: nothing to remove")
    return 0
