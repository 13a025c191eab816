"""`python -m model_export quantize NAME`: a published model in int8 or fp16, if it answers as before."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import get_args

from model_export.cli.options import (
    add_layout,
    check_writable,
    layout_of,
    path,
    positive,
    refuse,
    refuse_of_other_data,
    version_of,
)
from model_export.quantise.gate import GateFailed
from model_export.quantise.images import open_parts
from model_export.quantise.quantising import CALIBRATION_IMAGES, HELD_OUT_IMAGES, LIMIT, METHOD, quantise
from service.card import CalibrationMethod


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    text = "Make an int8 or fp16 file of a published model, compare it with fp32, and publish both as a new version."
    sub = commands.add_parser("quantize", help=text, description=text)
    sub.set_defaults(run=run)
    sub.add_argument("name", metavar="NAME", help="of a published model")
    sub.add_argument(
        "--data",
        required=True,
        metavar="SPEC",
        help="images to calibrate on and others to be judged by: a folder with train/CLASS/*.jpg and val/CLASS/*.jpg, "
        "or with CLASS/*.jpg, or of images without labels; cifar10; drawings or drawings:train=...,val=...",
    )
    add_layout(sub)
    sub.add_argument("--precision", choices=("int8", "fp16"), default="int8", help="(default: int8)")
    sub.add_argument(
        "--method", choices=get_args(CalibrationMethod), help=f"to calibrate int8 with (default: {METHOD})"
    )
    sub.add_argument(
        "--images", type=positive, metavar="N", help=f"to calibrate int8 on (default: {CALIBRATION_IMAGES})"
    )
    sub.add_argument(
        "--held-out",
        type=positive,
        default=HELD_OUT_IMAGES,
        metavar="N",
        help=f"images to be judged by, at most (default: {HELD_OUT_IMAGES})",
    )
    sub.add_argument(
        "--limit",
        type=points,
        default=100 * LIMIT,
        metavar="POINTS",
        help="percentage points of accuracy (of agreement with fp32, where there are no labels) that may be lost; "
        f"beyond, nothing is published (default: {100 * LIMIT:g})",
    )
    sub.add_argument("--models-dir", type=path, default=Path("models"), help="the model folder (default: models)")
    sub.add_argument("--version", type=int, help="(default: the latest)")


def run(args: argparse.Namespace) -> int:
    if args.precision == "fp16":
        refuse(args, ("method", "images"), "int8, which needs calibration")
    refuse_of_other_data(args)
    check_writable(args.models_dir)
    try:
        card = quantise(
            version_of(args.models_dir, args.name, args.version),
            args.models_dir,
            open_parts(args.data, layout_of(args)),
            precisions=[args.precision],
            method=args.method or METHOD,
            images=args.images or CALIBRATION_IMAGES,
            held_out=args.held_out,
            limit=args.limit / 100,
        )
    except GateFailed as error:
        other = "calibrate with another --method or more --images, or " if args.precision == "int8" else ""
        raise GateFailed(f"{error}. Nothing was published: {other}raise --limit") from error
    file = card.files[args.precision]
    gate = file.gate
    assert gate is not None
    lost = "" if gate.accuracy_lost is None else f", {100 * gate.accuracy_lost:.2f} points of accuracy lost"
    kept = file.quantisation and file.quantisation.float_layers
    print(
        f"{card.name} {card.version}: {args.precision}, {file.bytes / 1e6:.1f} MB (fp32: "
        f"{card.files['fp32'].bytes / 1e6:.1f}): {100 * gate.top1_agreement:.2f} % top-1 agreement with fp32{lost}, "
        f"on {gate.images} images of {gate.dataset}" + (f"; in float: {', '.join(kept)}" if kept else "")
    )
    return 0


def points(text: str) -> float:
    """The type of --limit."""
    number = float(text)
    if not 0 <= number <= 100:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and 100 percentage points")
    return number
