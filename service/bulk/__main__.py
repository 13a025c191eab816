"""`resnet classify`, or `python -m service.bulk`: classifies files, folders and lists of images."""

from __future__ import annotations

import argparse
import math
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from resnet_commands import RUNTIME_EXTRA, called, run_program
from service.runtime.choices import PrecisionChoice, ProviderChoice

DESCRIPTION = "Classify images: files, folders and patterns, in this process or on a server."
EPILOG = (
    "Exit status: 0 if every image was classified, 1 if some were not or the run ended early, 2 if it could not begin, "
    "130 after Ctrl-C, 143 after SIGTERM."
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

    ray = parser.add_argument_group(
        "on a Ray cluster",
        "needs the extra `ray` on every machine; options and settings of this process hold there, too",
    )
    ray.add_argument(
        "--ray",
        metavar="ADDRESS",
        help="HOST:PORT of a cluster; auto: the one that this machine is in; "
        "local: one of this machine alone. A PATH may also be s3://BUCKET/PREFIX, or end in .parquet",
    )
    ray.add_argument(
        "--column",
        metavar="NAME",
        help="of Parquet files: the column with the images, as bytes, or with "
        "their paths (default: the only column of bytes)",
    )
    ray.add_argument(
        "--engines",
        type=_positive,
        metavar="N",
        help="models loaded at the same time (default: more while the run waits for them and there is room)",
    )
    ray.add_argument("--engine-cpus", type=_positive, metavar="N", help="CPUs of each (default: 1)")
    ray.add_argument(
        "--engine-gpus",
        type=_share,
        metavar="SHARE",
        help="GPUs of each, such as 1, 0.5 or 0 (default: 1 if the cluster has any)",
    )

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


def _share(text: str) -> float:
    share = float(text) if re.fullmatch(r"\d+(\.\d+)?", text) else math.nan
    if not (0 <= share <= 1 or share.is_integer()):
        raise argparse.ArgumentTypeError(f"not a whole number or a share of 1: {text!r}")
    return share


def _run(arguments: Sequence[str]) -> int:
    parser = make_parser()
    args = parser.parse_args(arguments)
    if args.output and not (args.json or args.csv):
        parser.error("--output needs --json or --csv: choose one, or write --parquet FILE")
    if args.resume and not (args.output or args.parquet):
        parser.error("--resume needs a file to go on with: add --output FILE or --parquet FILE")
    here = ("models_dir", "provider", "precision")
    on_a_cluster = ("column", "engines", "engine_cpus", "engine_gpus")
    on_a_server = ("connections", "api_key_file", "ca_file")
    if args.url:
        without_effect = dict.fromkeys((*here, "ray", *on_a_cluster), "with --url")
    else:
        without_effect = dict.fromkeys(on_a_server, "without --url")
        without_effect |= {"explain": "with --ray"} if args.ray else dict.fromkeys(on_a_cluster, "without --ray")
    for name, when in without_effect.items():
        if getattr(args, name) is not None:
            parser.error(f"--{name.replace('_', '-')} has no effect {when}: leave it out")
    if args.ca_file and not args.url.startswith("https:"):
        parser.error("--ca-file has no effect without TLS: give an https address, or leave it out")
    args.connections = args.connections or CONNECTIONS

    from service.bulk.command import classify  # needs what an extra installs

    return classify(args)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
