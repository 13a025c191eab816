"""Options that say how to read a folder of images, which several commands share."""

from __future__ import annotations

import argparse

from model_export.cli.options import positive, refuse
from model_export.datasets.by_name import is_cifar10, is_folder
from model_export.datasets.holding_out import Fold, check_fold
from model_export.datasets.layout import Layout
from model_export.errors import InputError

FOLDER_OPTIONS = ("val_share", "broken", "split", "ignore")


def add_layout(parser: argparse._ActionsContainer, *, training: bool = False) -> None:
    """Adds `--split` and `--ignore`, which `layout_of` reads. In training, CIFAR-10 has parts."""
    parser.add_argument(
        "--split",
        metavar="auto|none|TRAIN,VAL[,TEST]",
        help="the parts of a folder. auto: find them by name (train, val and test, Training and Testing, ...); none: "
        "every subfolder is a class; TRAIN,VAL or TRAIN,VAL,TEST: names of the subfolders; TRAIN,,TEST: keep a share "
        "of TRAIN for validation (default: auto)"
        + ("; for cifar10: auto or train,test, see --data" if training else ""),
    )
    parser.add_argument(
        "--ignore",
        action="append",
        metavar="NAME",
        help="name or pattern of folders and files to skip, such as '*_old'; may be repeated",
    )


def add_folds(parser: argparse._ActionsContainer) -> None:
    """Adds `--folds` and `--fold`, which `fold_of` reads."""
    parser.add_argument(
        "--folds", type=positive, metavar="K", help="for cross-validation: divide the images in K folds"
    )
    parser.add_argument(
        "--fold", type=positive, metavar="I", help="the fold to validate on, 1 to K; `train` trains on the others"
    )


def fold_of(args: argparse.Namespace) -> Fold | None:
    """The fold to validate on; None if there are no folds.

    Raises:
        InputError: one of the two options is missing, there is no such fold, or another option contradicts them.
    """
    if args.folds is None and args.fold is None:
        return None
    if args.folds is None or args.fold is None:
        raise InputError("--folds and --fold go together: give `--folds 5 --fold 1`, and then the other folds")
    refuse(args, ("val_share",), "a run without folds")
    fold = Fold(args.fold, args.folds)
    check_fold(fold)
    return fold


def layout_of(args: argparse.Namespace) -> Layout:
    return Layout(args.split or "auto", tuple(args.ignore or ()))


def refuse_folder_options(args: argparse.Namespace, *, training: bool = False) -> None:
    """Raises InputError if folder options were given and `--data` is not a folder. In training, CIFAR-10 has parts."""
    if not is_folder(args.data):
        parted = training and is_cifar10(args.data)
        refuse(args, (name for name in FOLDER_OPTIONS if not (parted and name == "split")), "a folder of images")
