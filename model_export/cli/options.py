"""Options that several commands share."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Literal, get_args

from model_export.datasets.layout import Layout
from model_export.datasets.opening import is_folder
from model_export.errors import InputError
from model_export.weights import Loaded, imagenet
from service.card import Published, nothing_in, published

PublishedWeights = Literal["imagenet", "imagenet-v2"]


OF_A_FOLDER = ("val_share", "broken", "split", "ignore")


def refuse(args: argparse.Namespace, options: Iterable[str], only: str) -> None:
    """Raises InputError where one of these options, whose default is None, was given though it would change nothing.

    Args:
        only: what they are for, such as "a folder of images".
    """
    if given := [f"--{name.replace('_', '-')}" for name in options if getattr(args, name, None) is not None]:
        raise InputError(f"{' and '.join(given)}: only for {only}: leave {'it' if len(given) == 1 else 'them'} out")


def refuse_of_other_data(args: argparse.Namespace) -> None:
    """Raises InputError where `--data` is no folder and options of a folder were given."""
    if not is_folder(args.data):
        refuse(args, OF_A_FOLDER, "a folder of images")


def published_weights(args: argparse.Namespace) -> Loaded:
    """The published weights that `--weights`, of `PublishedWeights`, and `--depth` name.

    Raises:
        InputError: there is no depth, or other options ask for a network that nobody has published.
        Unavailable: the file cannot be had.
    """
    if args.depth is None:
        raise InputError("say which published weights with --depth")
    if (args.family or "imagenet", args.shortcut or "B", args.variant or "v1.5") != ("imagenet", "B", "v1.5"):
        raise InputError("the published ImageNet weights are of v1.5 with option B: leave those options out")
    return imagenet(args.depth, "v2" if args.weights == "imagenet-v2" else "v1")


def add_layout(parser: argparse.ArgumentParser) -> None:
    """Options of a folder of images, for `layout_of`."""
    parser.add_argument(
        "--split",
        metavar="auto|none|TRAIN,VAL",
        help="the two parts of a folder: auto finds train and val, Training and Testing and the like; none: every "
        "folder is a class; else their names (default: auto)",
    )
    parser.add_argument(
        "--ignore", action="append", metavar="NAME", help="a folder or file to pass over, or a pattern; may be repeated"
    )


def layout_of(args: argparse.Namespace) -> Layout:
    return Layout(args.split or "auto", tuple(args.ignore or ()))


def version_of(root: Path, name: str, version: int | None) -> Published:
    """The version of a published model that `--version` means, by default the latest.

    Raises:
        InputError: there is no such model, or it has no such version.
    """
    entries = list(published(root))
    if not entries:
        raise InputError(nothing_in(root))
    of_name = [entry for entry in entries if entry.name == name]  # ascending
    if not of_name:
        names = ", ".join(sorted({entry.name for entry in entries}))
        raise InputError(f"there is no model {name} in {root}: there is {names}")
    if version is None:
        return of_name[-1]
    for entry in of_name:
        if entry.version == version:
            return entry
    versions = ", ".join(str(entry.version) for entry in of_name)
    raise InputError(f"{name} has no version {version}: it has {versions}")


def path(text: str) -> Path:
    """The type of an option that is a file or a folder; `~` is the home, as in the service's settings."""
    if not text:
        raise argparse.ArgumentTypeError("it is empty: give a path")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise argparse.ArgumentTypeError(f"{text!a} is no UTF-8 text: rename it") from None
    try:
        return Path(text).expanduser()
    except RuntimeError:
        raise argparse.ArgumentTypeError(f"{text}: this user has no home folder: give the path in full") from None


def weights(text: str) -> str:
    """The type of --weights: one of the words, or else a file."""
    return text if text in (*get_args(PublishedWeights), "demo", "random") else str(path(text))


def check_writable(folder: Path) -> None:
    """Raises InputError where a folder can neither be written into nor made: before the work whose result it is for."""
    nearest = next(there for there in (folder.absolute(), *folder.absolute().parents) if there.exists())
    if not nearest.is_dir():
        raise InputError(f"{nearest} is a file: give a folder, or the name of a new one")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise InputError(f"{nearest} cannot be written into: let this user write there, or give another folder")


def seed(text: str) -> int:
    """The type of --seed."""
    number = int(text)
    if not 0 <= number < 2**32:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and 2^32 - 1")
    return number


def positive(text: str) -> int:
    """The type of an option that counts something."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is not at least 1")
    return number
