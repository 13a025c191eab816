"""Option types, checks and model selection that several commands share."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterable
from pathlib import Path

from model_export.errors import InputError
from model_export.paths import expand_home
from model_export.versions import find_version
from service.runtime.model_folder import ModelVersion, explain_empty, model_versions

MODELS_DIR = "RESNET_MODELS_DIR"  # the service's setting: both programs share the folder
REFERENCE = "NAME[@VERSION]"
MEANING_OF_REFERENCE = (
    "a published model: the version that clients get (@stable, else the latest), or that with a number or an alias"
)


def path(text: str) -> Path:
    """Type of an option that takes a file or a folder; expands `~`, as the service's settings do."""
    if not text:
        raise argparse.ArgumentTypeError("empty path: give a file or a folder")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise argparse.ArgumentTypeError(f"not valid UTF-8: {text!a}: rename it") from None
    try:
        return expand_home(Path(text))
    except InputError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def whole_number(text: str) -> int:
    """Type of an option that takes an integer."""
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"not a whole number: {text!r}") from None


def positive(text: str) -> int:
    """Type of an option that counts something."""
    number = whole_number(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {text}")
    return number


def share(text: str) -> float:
    """Type of an option that takes a share of images, from 0 up to but without 1."""
    try:
        number = float(text)
    except ValueError:
        number = -1
    if not 0 <= number < 1:
        raise argparse.ArgumentTypeError(f"not a share: {text!r} (expected a number from 0 to below 1, such as 0.01)")
    return number


def seed(text: str) -> int:
    """Type of --seed: a value that NumPy and PyTorch both accept."""
    try:
        number = int(text)
    except ValueError:
        number = -1
    if not 0 <= number < 2**32:
        raise argparse.ArgumentTypeError(f"not a valid seed: {text!r} (expected 0 to 2^32 - 1)")
    return number


def refuse(args: argparse.Namespace, options: Iterable[str], scope: str) -> None:
    """Rejects options that would have no effect. Their default has to be None.

    Args:
        options: names of the options, as attributes of `args`; those that the command does not have are skipped.
        scope: what the options apply to, such as "a folder of images".

    Raises:
        InputError: at least one of the options was given.
    """
    given = [f"--{name.replace('_', '-')}" for name in options if getattr(args, name, None) is not None]
    if len(given) == 1:
        raise InputError(f"{given[0]} only applies to {scope}: leave it out")
    if given:
        raise InputError(f"{', '.join(given[:-1])} and {given[-1]} only apply to {scope}: leave them out")


def check_writable(folder: Path) -> None:
    """Checks that a folder can be written to, or created, before the work whose result goes there.

    Raises:
        InputError: it cannot.
    """
    nearest = next(parent for parent in (folder.absolute(), *folder.absolute().parents) if parent.exists())
    if not nearest.is_dir():
        raise InputError(f"{nearest} is a file: give a folder, or the name of a new one")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise InputError(f"{nearest} is not writable: make it writable for this user, or give another folder")


def check_new_folder(folder: Path) -> None:
    """Raises InputError if something is there already: nothing is overwritten."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder} is not an empty folder, and nothing is overwritten: give another one, or remove it")


def add_models_dir(parser: argparse._ActionsContainer) -> None:
    parser.add_argument(
        "--models-dir",
        type=path,
        default=os.environ.get(MODELS_DIR) or "models",
        metavar="DIR",
        help=f"the model folder (default: {MODELS_DIR}, else models)",
    )


def add_selection(parser: argparse.ArgumentParser) -> None:
    """Adds `NAME` and `--models-dir`, which `selected_versions` reads."""
    parser.add_argument(
        "name", metavar=REFERENCE, nargs="?", help=f"{MEANING_OF_REFERENCE} (default: every version of every model)"
    )
    add_models_dir(parser)


def selected_versions(args: argparse.Namespace) -> list[ModelVersion]:
    """The version that NAME means; without NAME, every published version.

    Raises:
        InputError: there is no such model or version, or nothing is published.
        CardError: `model.json` cannot be read.
    """
    if args.name is not None:
        return [find_version(args.models_dir, args.name)]
    versions = list(model_versions(args.models_dir))
    if not versions:
        raise InputError(explain_empty(args.models_dir))
    return versions
