"""The `inspect` command: prints model cards."""

from __future__ import annotations

import argparse
import json

from model_export.cli.options import add_selection, selected_versions
from service.runtime.model_card import ModelCard
from service.runtime.model_folder import read_card

LABELS_SHOWN = 10


def add_options(parser: argparse.ArgumentParser) -> None:
    add_selection(parser)


def run(args: argparse.Namespace) -> int:
    cards = [_as_json(read_card(entry.path)) for entry in selected_versions(args)]
    print(json.dumps(cards if args.name is None else cards[0], indent=2, ensure_ascii=False))
    return 0


def _as_json(card: ModelCard) -> dict[str, object]:
    """The card with the names of the first classes only: the file has them all."""
    names = [label.name for label in card.labels]
    more = [f"... and {len(names) - LABELS_SHOWN} more"] if len(names) > LABELS_SHOWN else []
    return card.model_dump(mode="json") | {"labels": names[:LABELS_SHOWN] + more}
