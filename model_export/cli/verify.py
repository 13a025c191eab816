"""The `verify` command: checks digests and self-tests of published models."""

from __future__ import annotations

import argparse
from typing import get_args

from model_export.cli.options import add_selection, selected_versions
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


def run(args: argparse.Namespace) -> int:
    """Checks every selected version; returns 1 if any of them fails."""
    failed = False
    for entry in selected_versions(args):
        try:
            card = read_card(entry.path)
            verify_digests(entry.path, card)
            engine = load_engine(entry.path, card, provider=args.provider, threads=usable_cores())
        except (CardError, ProviderUnavailable, SelfTestFailed) as error:
            print(f"{entry.name} {entry.version}: FAILED: {error}")
            failed = True
        else:
            print(
                f"{entry.name} {entry.version}: ok: digests match, and the self-test passes "
                f"on {engine.info.provider} in {engine.info.precision}"
            )
    return 1 if failed else 0
