"""The `draw` command: writes drawings as folders of images to train on."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path
from typing import get_args

from model_export.cli.options import check_new_folder, check_writable, path, seed
from model_export.datasets.base import Dataset
from model_export.datasets.drawings import open_drawings
from model_export.drawings.pictures import CLASSES, SIDES, STYLES, Difficulty
from model_export.errors import InputError
from service.runtime.disk import new_folder
from service.runtime.progress import Progress

log = logging.getLogger(__name__)


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("out", type=path, metavar="OUT", help="folder to write; must be new or empty")
    parser.add_argument("--train", type=int, default=400, help="number of training pictures (default: 400)")
    parser.add_argument("--val", type=int, default=100, help="number of validation pictures (default: 100)")
    parser.add_argument(
        "--classes",
        nargs="+",
        choices=CLASSES,
        default=CLASSES,
        metavar="CLASS",
        help=f"what to draw (default: {' '.join(CLASSES)})",
    )
    parser.add_argument(
        "--difficulty",
        choices=get_args(Difficulty),
        default="standard",
        help="how hard the classes are to tell apart (default: standard)",
    )
    parser.add_argument("--side", type=int, help="draw squares of this side in pixels (default: sizes of photographs)")
    parser.add_argument("--seed", type=seed, default=0, help="different seeds give different pictures (default: 0)")


def run(args: argparse.Namespace) -> int:
    """Writes `OUT/train/<class>/NNNN.jpg` and `OUT/val/<class>/NNNN.jpg`; on an error or interrupt, nothing.

    Raises:
        InputError: OUT exists and is not an empty folder, or the options do not go together.
        OSError: the pictures cannot be written.
    """
    out: Path = args.out
    check_new_folder(out)
    check_writable(out.parent)
    if min(args.train, args.val) < len(args.classes):
        raise InputError(
            f"{args.train} training and {args.val} validation pictures are too few for {len(args.classes)} classes: "
            "draw at least one of each class, or choose fewer with `--classes`"
        )
    style = STYLES[args.difficulty]
    if args.side is not None:
        if not SIDES[0] <= args.side <= SIDES[1]:
            raise InputError(f"pictures cannot have a side of {args.side} pixels: give {SIDES[0]} to {SIDES[1]}")
        style = style.square(args.side)
    data = open_drawings(train=args.train, val=args.val, classes=tuple(args.classes), style=style, seed=args.seed)

    with new_folder(out) as staging:
        write_images(data.train, staging / "train")
        write_images(data.val, staging / "val")
    log.info("%s: %d training and %d validation pictures", out, len(data.train), len(data.val))
    return 0


def write_images(dataset: Dataset, root: Path) -> None:
    for name in dataset.classes:
        (root / name).mkdir(parents=True)
    with Progress(f"{root.name}: drawing", len(dataset)) as progress:
        for index, label in enumerate(dataset.labels):
            (root / dataset.classes[label] / f"{index:04}.jpg").write_bytes(dataset.read(index))
            progress.advance()
