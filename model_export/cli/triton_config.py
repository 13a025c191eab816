"""The `triton-config` command: writes what Triton needs beside the published models."""

from __future__ import annotations

import argparse
from typing import get_args

from model_export.cli.options import MEANING_OF_REFERENCE, REFERENCE, add_models_dir, positive
from model_export.errors import InputError
from model_export.export.triton import CONFIG_FILE, LABELS_FILE, triton_config, triton_labels
from model_export.versions import find_version
from service.runtime.choices import FilePrecision
from service.runtime.disk import write_atomically
from service.runtime.model_folder import explain_empty, model_versions, read_card

MAX_BATCH = 32


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "name", metavar=REFERENCE, nargs="?", help=f"{MEANING_OF_REFERENCE} (default: every model's that clients get)"
    )
    parser.add_argument(
        "--precision", choices=get_args(FilePrecision), default="fp32", help="which file Triton runs (default: fp32)"
    )
    parser.add_argument(
        "--max-batch",
        type=positive,
        default=MAX_BATCH,
        metavar="N",
        help=f"most images in a batch, and in a request (default: {MAX_BATCH})",
    )
    add_models_dir(parser)


def run(args: argparse.Namespace) -> int:
    root = args.models_dir
    references = [args.name] if args.name else sorted({version.name for version in model_versions(root)})
    if not references:
        raise InputError(explain_empty(root))
    for reference in references:
        name, version, folder = find_version(root, reference)
        card = read_card(folder)
        config = triton_config(card, args.precision, args.max_batch)
        write_atomically(root / name / LABELS_FILE, triton_labels(card).encode())
        write_atomically(root / name / CONFIG_FILE, config.encode())
        print(f"{root / name / CONFIG_FILE}: version {version}, {card.files[args.precision].file}")
    return 0
