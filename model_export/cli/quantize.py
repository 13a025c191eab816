"""The `quantize` command: adds an int8 or fp16 file to a published model, or allows bf16."""

from __future__ import annotations

import argparse
import math
from typing import get_args

from model_export.cli.data_options import add_layout, layout_of, refuse_folder_options
from model_export.cli.options import MEANING_OF_REFERENCE, REFERENCE, add_models_dir, check_writable, positive, refuse
from model_export.quantise.accuracy_gate import GateFailed
from model_export.quantise.images import open_calibration_data
from model_export.quantise.publication import (
    CALIBRATION_IMAGES,
    CALIBRATION_METHOD,
    GATE_IMAGES,
    LOSS_LIMIT,
    publish_quantised,
)
from model_export.versions import check_brings_nothing_back, find_version, latest_numbers
from service.runtime.choices import FILES, Precision
from service.runtime.model_card import CalibrationMethod


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar=REFERENCE, help=MEANING_OF_REFERENCE)
    parser.add_argument(
        "--data",
        required=True,
        metavar="SPEC",
        help="images to calibrate on, and others to compare with fp32 on: a folder with train/CLASS/*.jpg and "
        "val/CLASS/*.jpg, with CLASS/*.jpg, or with images without labels; cifar10; drawings or "
        "drawings:train=...,val=...",
    )
    add_layout(parser)
    parser.add_argument(
        "--precision",
        choices=("int8", "fp16", "bf16"),
        default="int8",
        help="precision of the new file; bf16 needs none, and only its comparison is added (default: int8)",
    )
    parser.add_argument(
        "--method",
        choices=get_args(CalibrationMethod),
        help=f"calibration method for int8 (default: {CALIBRATION_METHOD})",
    )
    parser.add_argument(
        "--images",
        type=positive,
        metavar="N",
        help=f"number of images to calibrate int8 on (default: {CALIBRATION_IMAGES})",
    )
    parser.add_argument(
        "--held-out",
        type=positive,
        default=GATE_IMAGES,
        metavar="N",
        help=f"largest number of images to compare with fp32 on (default: {GATE_IMAGES})",
    )
    parser.add_argument(
        "--limit",
        type=points,
        default=100 * LOSS_LIMIT,
        metavar="POINTS",
        help="how many percentage points of accuracy (without labels, of agreement with fp32) may be lost; if more "
        f"are, nothing is published (default: {100 * LOSS_LIMIT:g})",
    )
    add_models_dir(parser)


def run(args: argparse.Namespace) -> int:
    if args.precision != "int8":
        refuse(args, ("method", "images"), f"int8 ({args.precision} needs no calibration)")
    refuse_folder_options(args)
    check_writable(args.models_dir)
    try:
        latest = latest_numbers(args.models_dir)  # first: meanwhile, others may publish
        version = find_version(args.models_dir, args.name)
        check_brings_nothing_back(version)
        card = publish_quantised(
            version,
            open_calibration_data(args.data, layout_of(args)),
            precisions=[args.precision],
            method=args.method or CALIBRATION_METHOD,
            calibration_images=args.images or CALIBRATION_IMAGES,
            gate_images=args.held_out,
            limit=args.limit / 100,
            latest=latest.get(version.name),
        )
    except GateFailed as error:
        remedy = "calibrate with another --method or more --images, or " if args.precision == "int8" else ""
        raise GateFailed(f"{error}. Nothing was published: {remedy}raise --limit") from error
    precision: Precision = args.precision
    file, gate = card.files[FILES[precision]], card.gate(precision)
    assert gate is not None
    lost = "" if gate.accuracy_lost is None else f", {100 * gate.accuracy_lost:.2f} points of accuracy lost"
    float_layers = file.quantisation.float_layers if file.quantisation else ()
    print(
        f"{card.name} {card.version}: {args.precision}, {file.bytes / 1e6:.1f} MB (fp32: "
        f"{card.files['fp32'].bytes / 1e6:.1f}): {100 * gate.top1_agreement:.2f} % top-1 agreement with fp32{lost}, "
        f"on {gate.images} images of {gate.dataset}"
        + (f"; layers in float: {', '.join(float_layers)}" if float_layers else "")
    )
    return 0


def points(text: str) -> float:
    """Type of --limit."""
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 <= number <= 100:
        raise argparse.ArgumentTypeError(f"not valid percentage points: {text!r} (expected 0 to 100)")
    return number
