"""`resnet classify`, or `python -m service.bulk`: classifies files, folders and lists of images."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from resnet_commands import RUNTIME_EXTRA, called, run_program
from service.runtime.choices import PrecisionChoice, ProviderChoice

DESCRIPTION = "Classify images: files, folders and patterns, in this process or on a server."
EPILOG = (
    "Exit status: 0 if every image was classified, 1 if some were not or the run ended early, 2 if it could not begin, "
    "130 after Ctrl-C."
)

CONNECTIONS = 32


def main(arguments: Sequence[str]) -> int:
    """Returns the exit status."""
    return run_program(_run, arguments, RUNTIME_EXTRA, "service")


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=called("service.bulk"), description=DESCRIPTION, epilog=EPILOG)
    parser.add_argument(
        "paths",
        nargs="+",
        metavar="PATH",
        help="an image; a folder, with all folders below it; a pattern such as 'photos/**/*.jpg'; or - for a list of "
        "paths on standard input, one a line (or for one image)",
    )
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--model", metavar="NAME[@VERSION]", help="the model (default: the default model)")
    which.add_argument("--depth", type=_positive, metavar="N", help="the model, by its depth")
    parser.add_argument("--top-k", type=_positive, metavar="K", help="how many classes to answer with (default: 5)")
    parser.add_argument(
        "--labels", metavar="NAMES", help="the only classes that come into question, separated by commas"
    )

    output = parser.add_argument_group("output", "a line for each image, in the order of the paths")
    form = output.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="JSON Lines, with what the service answers")
    form.add_argument("--csv", action="store_true", help="CSV, with a header")
    form.add_argument("--parquet", type=Path, metavar="FILE", help="write a Parquet file (the extra `parquet`)")
    output.add_argument("--output", type=Path, metavar="FILE", help="write to a file, with --json or --csv")
    output.add_argument(
        "--explain", type=Path, metavar="DIR", help="write each image with the map of its best class over it, as a PNG"
    )
    output.add_argument(
        "--resume",
        action="store_true",
        help="go on with the file of an earlier run: images that it has rows of are left out",
    )

    local = parser.add_argument_group(
        "in this process", "other settings are those of the service: RESNET_ variables and .env (`resnet serve --help`)"
    )
    local.add_argument("--models-dir", type=Path, metavar="DIR", help="the model folder (default: models)")
    local.add_argument("--provider", choices=get_args(ProviderChoice), help="execution provider (default: auto)")
    local.add_argument("--precision", choices=get_args(PrecisionChoice), help="precision (default: auto)")

    server = parser.add_argument_group("on a server", "needs the extra `client` only")
    server.add_argument("--url", help="the address of a server, such as http://127.0.0.1:8000")
    server.add_argument("--connections", type=_positive, metavar="N", help="requests at the same time (default: 32)")
    server.add_argument("--api-key-file", type=Path, metavar="FILE", help="file with an API key of the server")
    server.add_argument("--ca-file", type=Path, metavar="FILE", help="certificates that the server's must descend from")
    return parser


def _positive(text: str) -> int:
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"not a whole number from 1: {text!r}")
    return int(text)


def _run(arguments: Sequence[str]) -> int:
    parser = make_parser()
    args = parser.parse_args(arguments)
    if args.output and not (args.json or args.csv):
        parser.error("--output needs --json or --csv: choose one, or write --parquet FILE")
    if args.resume and not (args.output or args.parquet):
        parser.error("--resume needs a file to go on with: add --output FILE or --parquet FILE")
    here, there = ("models_dir", "provider", "precision"), ("connections", "api_key_file", "ca_file")
    for name in here if args.url else there:
        if getattr(args, name) is not None:
            option = f"--{name.replace('_', '-')}"
            parser.error(f"{option} has no effect {'with' if args.url else 'without'} --url: leave it out")
    if args.ca_file and not args.url.startswith("https:"):
        parser.error("--ca-file has no effect without TLS: give an https address, or leave it out")
    args.connections = args.connections or CONNECTIONS

    from service.bulk.command import classify  # needs what an extra installs

    return classify(args)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
