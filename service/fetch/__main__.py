"""`resnet fetch`, or `python -m service.fetch`: copies published models into a model folder."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from resnet_commands import FETCH_EXTRA, called, run_program

DESCRIPTION = "Copy published models into a model folder and verify them. Only what is missing or different is fetched."
EPILOG = (
    "Exit status: 0 if everything is there, 1 after an error, 2 if something is not installed, 130 after Ctrl-C. An "
    "interrupted run goes on when it is started again."
)
MODELS_DIR, MODELS = "RESNET_MODELS_DIR", "RESNET_MODELS"  # so that an init container shares the service's environment


def main(arguments: Sequence[str]) -> int:
    """Returns the exit status."""
    return run_program(_run, arguments, FETCH_EXTRA, "service")


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=called("service.fetch"), description=DESCRIPTION, epilog=EPILOG)
    parser.add_argument(
        "source",
        metavar="SOURCE",
        help="s3://BUCKET/PREFIX, oci://REGISTRY/REPOSITORY:TAG (or @sha256:DIGEST), or a folder",
    )
    parser.add_argument(
        "--models-dir",
        type=Path,
        default=Path(os.environ.get(MODELS_DIR) or "models"),
        metavar="DIR",
        help=f"the model folder to fill (default: {MODELS_DIR}, else models)",
    )
    parser.add_argument(
        "--models",
        default=os.environ.get(MODELS, ""),
        metavar="NAMES",
        help="models to fetch, separated by commas, as in the service's setting: resnet50, or one version of it, "
        f"resnet50@3 or resnet50@canary (default: {MODELS}, else all). Of a model, its stable or latest version and "
        "those with an alias are fetched",
    )
    return parser


def _run(arguments: Sequence[str]) -> int:
    args = make_parser().parse_args(arguments)

    from service.fetch.command import fetch  # needs what an extra installs

    return fetch(args)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
