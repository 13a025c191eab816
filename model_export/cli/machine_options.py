"""Options that say how a run is computed, and who follows it."""

from __future__ import annotations

import argparse
import math
from dataclasses import fields
from typing import Any, get_args

from model_export.cli.options import positive, whole_number
from model_export.training.machine import AutocastPrecision, DeviceChoice, Machine
from model_export.training.trackers import TrackerName
from service.runtime.machine import usable_cores


def add_machine_options(parser: argparse.ArgumentParser) -> None:
    """Adds an option for each field of `Machine`, which `machine_of` reads."""
    machine = parser.add_argument_group("the machine", "may change when a run is resumed")
    machine.add_argument("--device", choices=get_args(DeviceChoice), help="where to train (default: auto)")
    machine.add_argument(
        "--precision",
        choices=get_args(AutocastPrecision),
        help="precision of convolutions and matrix products; auto: bf16 if the hardware has it, else fp32 (default: "
        "auto)",
    )
    machine.add_argument(
        "--channels-last", action=argparse.BooleanOptionalAction, help="memory format of images (default: yes)"
    )
    machine.add_argument("--compile", action=argparse.BooleanOptionalAction, help="use torch.compile (default: no)")
    machine.add_argument(
        "--workers", type=loader_workers, help="processes that read images (default: the cores less one, at most 16)"
    )
    machine.add_argument(
        "--checkpoint-minutes", type=minutes, help="time between checkpoints; 0: after every step (default: 10)"
    )
    machine.add_argument("--keep", type=positive, help="how many of the best weights to keep (default: 3)")
    machine.add_argument(
        "--log-to",
        action="append",
        choices=get_args(TrackerName),
        help="also log settings and metrics to MLflow or Weights & Biases; may be repeated (default: neither)",
    )


def machine_of(args: argparse.Namespace, stored: dict[str, Any]) -> Machine:
    """The settings given on the command line, else those stored in the checkpoint, else the defaults."""
    given = {field.name: getattr(args, field.name) for field in fields(Machine)}
    chosen = {**stored, **{name: value for name, value in given.items() if value is not None}}
    return Machine(**{**chosen, "log_to": tuple(chosen.get("log_to", ()))})


def loader_workers(text: str) -> int:
    """Type of --workers."""
    number, most = whole_number(text), max(16, 4 * usable_cores())
    if not 0 <= number <= most:
        raise argparse.ArgumentTypeError(f"must be between 0 and {most} on {usable_cores()} cores, got {text}")
    return number


def minutes(text: str) -> float:
    """Type of --checkpoint-minutes."""
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 <= number < math.inf:
        raise argparse.ArgumentTypeError(f"not a valid number of minutes: {text!r}")
    return number
