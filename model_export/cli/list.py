"""The `list` command: a table of the published models."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

from model_export.cli.options import add_models_dir
from model_export.cli.table import text_table
from service.runtime.choices import FILES
from service.runtime.measured import MultiLabelAccuracy
from service.runtime.model_card import ModelCard
from service.runtime.model_folder import CardError, ModelVersion, explain_empty, model_versions, read_card
from service.runtime.model_state import read_folder_state, read_state, stable_or_latest

log = logging.getLogger(__name__)

HEADER = (
    "NAME",
    "VERSION",
    "MEANT BY",
    "DEPTH",
    "VARIANT",
    "SHORTCUT",
    "CLASSES",
    "ACCURACY",
    "MB",
    "PRECISIONS",
    "WEIGHTS",
)


def add_options(parser: argparse.ArgumentParser) -> None:
    add_models_dir(parser)


def run(args: argparse.Namespace) -> int:
    rows = [HEADER]
    entries = list(model_versions(args.models_dir))
    default = read_folder_state(args.models_dir).default if entries else None
    numbers: dict[str, list[int]] = {}
    for entry in entries:
        numbers.setdefault(entry.name, []).append(entry.version)
    for entry in entries:
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
                ", ".join(_meant_by(args.models_dir, entry, numbers[entry.name], default)) or "-",
                str(architecture.depth),
                architecture.variant,
                architecture.shortcut or "none",
                str(architecture.num_classes),
                _accuracy(card),
                f"{card.files['fp32'].bytes / 1e6:.0f}",
                ", ".join(_precisions(card)),
                card.weights.source,
            )
        )
    print(text_table(rows) if len(rows) > 1 else explain_empty(args.models_dir))
    return 0


def _precisions(card: ModelCard) -> list[str]:
    """Those that there is a file for; bf16, which needs none, if it was compared with fp32."""
    return [name for name, file in FILES.items() if file in card.files and (name != "bf16" or card.gate(name))]


def _accuracy(card: ModelCard) -> str:
    if card.accuracy is None:
        return "?"
    if isinstance(card.accuracy, MultiLabelAccuracy):
        return f"mAP {100 * card.accuracy.mean_average_precision:.1f} %"
    return f"{100 * card.accuracy.top1:.1f} %"


def _meant_by(root: Path, entry: ModelVersion, numbers: list[int], default: str | None) -> list[str]:
    """What requests mean this version by: its name, its aliases; `default` if they name no model."""
    state = read_state(root / entry.name)
    found = [f"@{alias}" for alias, number in state.aliases.items() if number == entry.version]
    if stable_or_latest(numbers, state.aliases) == entry.version:
        found = [*(["default"] if default == entry.name else []), entry.name, *found]
    return found
