"""The `verify` command: checks digests and self-tests of published models, and what decoding on a GPU changes."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import get_args

from model_export.cli.options import add_selection, selected_versions
from model_export.evaluation.gpu_decoding import compare_decoding
from service.runtime.choices import ProviderChoice
from service.runtime.loading import load_engine
from service.runtime.machine import usable_cores
from service.runtime.model_folder import CardError, read_card, verify_digests
from service.runtime.providers import ProviderUnavailable
from service.runtime.self_test import SelfTestFailed


def add_options(parser: argparse.ArgumentParser) -> None:
    add_selection(parser)
    parser.add_argument(
        "--provider",
        choices=get_args(ProviderChoice),
        default="auto",
        help="execution provider for the self-test (default: auto, as the service chooses)",
    )
    parser.add_argument(
        "--gpu-decoding",
        type=Path,
        metavar="FOLDER",
        help="also classify the JPEGs below a folder twice, decoded by the GPU and by the processor, and compare",
    )


def run(args: argparse.Namespace) -> int:
    """Checks every selected version; returns 1 if any of them fails.

    Raises:
        InputError: the folder has no JPEGs, or one of them is broken.
    """
    failed = False
    folder: Path | None = args.gpu_decoding
    for entry in selected_versions(args):
        try:
            card = read_card(entry.path)
            verify_digests(entry.path, card)
            engine = load_engine(
                entry.path, card, provider=args.provider, threads=usable_cores(), gpu_decoding=folder is not None
            )
        except (CardError, ProviderUnavailable, SelfTestFailed) as error:
            print(f"{entry.name} {entry.version}: FAILED: {error}")
            failed = True
            continue
        print(
            f"{entry.name} {entry.version}: ok: digests match, and the self-test passes "
            f"on {engine.info.provider} in {engine.info.precision}"
        )
        if folder is not None:
            found = compare_decoding(engine, card.preprocessing, folder)
            share = f"{100 * found.same / found.decoded:.2f} %" if found.decoded else "none"
            print(
                f"{entry.name} {entry.version}: of {found.images} images the GPU decodes {found.decoded}; of these "
                f"{share} get the same class as with the processor's decoding"
            )
    return 1 if failed else 0
