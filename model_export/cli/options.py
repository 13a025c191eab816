"""Options that several commands share."""

from __future__ import annotations

import argparse
from typing import Literal

from model_export.errors import InputError
from model_export.weights import Loaded, imagenet

Published = Literal["imagenet", "imagenet-v2"]


def published_weights(args: argparse.Namespace) -> Loaded:
    """The published weights that `--weights`, of `Published`, and `--depth` name.

    Raises:
        InputError: there is no depth, or other options ask for a network that nobody has published.
        Unavailable: the file cannot be had.
    """
    if args.depth is None:
        raise InputError("say which published weights with --depth")
    if (args.family or "imagenet", args.shortcut or "B", args.variant or "v1.5") != ("imagenet", "B", "v1.5"):
        raise InputError("the published ImageNet weights are of v1.5 with option B: leave those options out")
    return imagenet(args.depth, "v2" if args.weights == "imagenet-v2" else "v1")


def positive(text: str) -> int:
    """The type of an option that counts something."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is not at least 1")
    return number
