"""The `inspect` command: prints model cards."""

from __future__ import annotations

import argparse

from model_export.cli.options import add_selection, selected_versions
from service.runtime.model_folder import read_card

LABELS_SHOWN = 10
NOT_STATED = "not stated"  # a license


def add_options(parser: argparse.ArgumentParser) -> None:
    add_selection(parser)


def run(args: argparse.Namespace) -> int:
    for entry in selected_versions(args):
        card = read_card(entry.path)
        card = card.model_copy(
            update={"weights": card.weights.model_copy(update={"license": card.weights.license or NOT_STATED})}
        )
        for name, value in card.model_dump(mode="json", exclude={"labels"}).items():
            if isinstance(value, dict):
                print(f"{name}:")
                for key, inner in value.items():
                    print(f"  {key}: {inner}")
            else:
                print(f"{name}: {value}")
        labels = [label.name for label in card.labels]
        more = ", ..." if len(labels) > LABELS_SHOWN else ""
        print(f"labels: {len(labels)}: {', '.join(labels[:LABELS_SHOWN])}{more}")
    return 0
