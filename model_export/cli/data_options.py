"""Options that say how to read a folder of images, which several commands share."""

from __future__ import annotations

import argparse

from model_export.cli.options import refuse
from model_export.datasets.by_name import is_folder
from model_export.datasets.layout import Layout

FOLDER_OPTIONS = ("val_share", "broken", "split", "ignore")


def add_layout(parser: argparse._ActionsContainer) -> None:
    """Adds `--split` and `--ignore`, which `layout_of` reads."""
    parser.add_argument(
        "--split",
        metavar="auto|none|TRAIN,VAL",
        help="the training and validation parts of a folder. auto: find them by name (train and val, Training and "
        "Testing, ...); none: every subfolder is a class; TRAIN,VAL: names of the two subfolders (default: auto)",
    )
    parser.add_argument(
        "--ignore",
        action="append",
        metavar="NAME",
        help="name or pattern of folders and files to skip, such as '*_old'; may be repeated",
    )


def layout_of(args: argparse.Namespace) -> Layout:
    return Layout(args.split or "auto", tuple(args.ignore or ()))


def refuse_folder_options(args: argparse.Namespace) -> None:
    """Raises InputError if folder options were given and `--data` is not a folder."""
    if not is_folder(args.data):
        refuse(args, FOLDER_OPTIONS, "a folder of images")
