"""The `prune` command: removes old versions of a model, and what killed commands have left."""

from __future__ import annotations

import argparse

from model_export.cli.options import add_models_dir, positive
from model_export.leftovers import remove_leftovers
from model_export.versions import prune


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="name of a published model")
    parser.add_argument(
        "--keep",
        type=positive,
        default=3,
        metavar="N",
        help="of the latest versions; those with an alias, and the one before the stable one, stay too (default: 3)",
    )
    add_models_dir(parser)


def run(args: argparse.Namespace) -> int:
    removed = prune(args.models_dir, args.name, args.keep)
    print(f"{args.name}: removed {', '.join(map(str, removed))}" if removed else f"{args.name}: nothing to remove")
    for path in remove_leftovers(args.models_dir / args.name) + remove_leftovers(args.models_dir):
        print(f"{path}: removed; a command that was killed had left it")
    return 0
