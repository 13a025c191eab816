"""Options that choose a network and its weights, which several commands share."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Literal, get_args

from model_export.cli.options import path
from model_export.errors import InputError
from model_export.weights.defaults import Family, ShortcutOption
from model_export.weights.imagenet import load_imagenet
from model_export.weights.loading import Loaded, load_file
from service.runtime.model_card import Variant

TorchvisionWeights = Literal["imagenet", "imagenet-v2"]


def weights(text: str) -> str:
    """Type of --weights: a keyword, or the path of a file."""
    return text if text in (*get_args(TorchvisionWeights), "demo", "random") else str(path(text))


def add_network_options(group: argparse._ActionsContainer, *, family: str, variant: str) -> None:
    """Adds `--depth`, `--family`, `--variant` and `--shortcut`.

    Args:
        family, variant: how the help of these options ends: where the value comes from if it is not given.
    """
    group.add_argument("--depth", type=int, help="18, 34, 50, 101 or 152; with --family cifar, 6n+2")
    group.add_argument(
        "--family",
        choices=get_args(Family),
        help=f"the paper's networks for large images, or those for CIFAR-10 {family}",
    )
    group.add_argument(
        "--variant",
        choices=get_args(Variant),
        help=f"where bottlenecks have their stride: v1 in the first convolution, v1.5 in the 3x3 convolution{variant}",
    )
    group.add_argument(
        "--shortcut",
        choices=get_args(ShortcutOption),
        help="shortcut option of the paper; none: a plain network (default: B; A with --family cifar)",
    )


def load_torchvision(args: argparse.Namespace) -> Loaded:
    """Torchvision's ImageNet weights, by `--weights` (one of `TorchvisionWeights`) and `--depth`.

    Raises:
        InputError: there is no depth, or other options ask for a network that torchvision has no weights for.
        Unavailable: the file is neither cached nor can it be downloaded.
    """
    if args.depth is None:
        raise InputError(f"--weights {args.weights} needs the network's depth: give --depth")
    if (args.family or "imagenet", args.shortcut or "B", args.variant or "v1.5") != ("imagenet", "B", "v1.5"):
        raise InputError("torchvision's weights are for v1.5 with shortcut option B: leave those options out")
    return load_imagenet(args.depth, "v2" if args.weights == "imagenet-v2" else "v1")


def load_weight_file(file: Path, args: argparse.Namespace) -> Loaded:
    """A weight file, as the network that `--depth`, `--family`, `--variant` and `--shortcut` describe.

    Labels are needed if the command has `--labels`.

    Raises:
        InputError: as `load_file`.
    """
    return load_file(
        file,
        depth=args.depth,
        family=args.family,
        variant=args.variant,
        shortcut=args.shortcut,
        labels=getattr(args, "labels", None),
        labels_needed=hasattr(args, "labels"),
    )
