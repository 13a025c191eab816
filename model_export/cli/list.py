"""The `list` command: a table of the published models."""

from __future__ import annotations

import argparse
import logging

from model_export.cli.options import add_models_dir
from model_export.cli.table import text_table
from service.runtime.model_folder import CardError, explain_empty, model_versions, read_card

log = logging.getLogger(__name__)

HEADER = ("NAME", "VERSION", "DEPTH", "VARIANT", "SHORTCUT", "CLASSES", "TOP-1", "MB", "FILES", "WEIGHTS")


def add_options(parser: argparse.ArgumentParser) -> None:
    add_models_dir(parser)


def run(args: argparse.Namespace) -> int:
    rows = [HEADER]
    for entry in model_versions(args.models_dir):
        try:
            card = read_card(entry.path)
        except CardError as error:
            log.warning("%s %d: %s", entry.name, entry.version, error)
            continue
        architecture = card.architecture
        rows.append(
            (
                card.name,
                str(card.version),
                str(architecture.depth),
                architecture.variant,
                architecture.shortcut or "none",
                str(architecture.num_classes),
                f"{100 * card.accuracy.top1:.1f} %" if card.accuracy else "?",
                f"{card.files['fp32'].bytes / 1e6:.0f}",
                ", ".join(card.files),
                card.weights.source,
            )
        )
    print(text_table(rows) if len(rows) > 1 else explain_empty(args.models_dir))
    return 0
