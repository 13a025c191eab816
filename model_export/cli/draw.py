"""`draw`: drawings as a folder of images, for those who have no pictures at hand."""

from __future__ import annotations

import argparse
import logging
import shutil
import tempfile
from pathlib import Path
from typing import get_args

from model_export.cli.options import check_writable, path, seed
from model_export.datasets.base import Dataset
from model_export.datasets.drawn import drawings
from model_export.drawings import CLASSES, SIDES, STYLES, Difficulty
from model_export.errors import InputError
from model_export.progress import Progress

logger = logging.getLogger(__name__)


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    text = "Draw pictures of shapes and patterns, as folders to train and to validate on."
    parser = commands.add_parser("draw", help=text, description=text)
    parser.set_defaults(run=run)
    parser.add_argument("out", type=path, metavar="OUT", help="the folder to write, new or empty")
    parser.add_argument("--train", type=int, default=400, help="pictures to train on (default: 400)")
    parser.add_argument("--val", type=int, default=100, help="pictures to validate on (default: 100)")
    parser.add_argument(
        "--classes",
        nargs="+",
        choices=CLASSES,
        default=CLASSES,
        metavar="CLASS",
        help=f"(default: {' '.join(CLASSES)})",
    )
    parser.add_argument(
        "--difficulty", choices=get_args(Difficulty), default="standard", help="how hard to tell (default: standard)"
    )
    parser.add_argument("--side", type=int, help="draw squares of so many pixels (default: sizes of photographs)")
    parser.add_argument("--seed", type=seed, default=0, help="other seeds give other pictures (default: 0)")


def run(args: argparse.Namespace) -> int:
    """Writes `OUT/train/<class>/NNNN.jpg` and `OUT/val/<class>/NNNN.jpg`; on an error or interrupt, nothing.

    Raises:
        InputError: OUT is there and not empty, or the options are not possible.
        OSError: the pictures cannot be written.
    """
    out: Path = args.out
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out} is not an empty folder, and nothing is overwritten: give another, or remove it")
    check_writable(out.parent)
    if min(args.train, args.val) < len(args.classes):
        raise InputError(
            f"{args.train} pictures to train on and {args.val} to validate on are too few for {len(args.classes)} "
            "classes: draw at least one of each class, or name fewer with `--classes`"
        )
    style = STYLES[args.difficulty]
    if args.side is not None:
        if not SIDES[0] <= args.side <= SIDES[1]:
            raise InputError(
                f"pictures of {args.side} pixels cannot be drawn: give {SIDES[0]} to {SIDES[1]} with `--side`"
            )
        style = style.square(args.side)
    data = drawings(train=args.train, val=args.val, classes=tuple(args.classes), style=style, seed=args.seed)

    out.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.absolute().parent))
    try:
        _write(data.train, staging / "train")
        _write(data.val, staging / "val")
        staging.chmod(0o755)  # a temporary folder is its owner's alone
        staging.replace(out)
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise
    logger.info("%s: %d pictures to train on, %d to validate on", out, len(data.train), len(data.val))
    return 0


def _write(dataset: Dataset, root: Path) -> None:
    for name in dataset.classes:
        (root / name).mkdir(parents=True)
    with Progress(f"{root.name}: drawing", len(dataset)) as progress:
        for index, label in enumerate(dataset.labels):
            (root / dataset.classes[label] / f"{index:04}.jpg").write_bytes(dataset.read(index))
            progress.advance()
