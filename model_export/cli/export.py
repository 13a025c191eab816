"""The `export` command: converts a network to ONNX, checks it and publishes it."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path
from typing import get_args

from pydantic import ValidationError

from model_export.cli.options import add_models_dir, check_writable, path, refuse, seed
from model_export.cli.weight_options import (
    TorchvisionWeights,
    add_network_options,
    load_torchvision,
    load_weight_file,
    weights,
)
from model_export.demo import DEMO_NAME, shipped_demo, train_demo
from model_export.errors import InputError
from model_export.export.publish import publish
from model_export.weights.defaults import Family, shortcut_of
from model_export.weights.loading import Loaded
from model_export.weights.random_weights import random_weights
from service.runtime.head import Head, HeadKind
from service.runtime.model_card import Architecture, ModelCard
from service.runtime.model_folder import CardError, model_versions, read_card
from service.runtime.preprocessing import Fit, Interpolation, Preprocessing

log = logging.getLogger(__name__)

NETWORK_OPTIONS = ("depth", "family", "variant", "shortcut")
PREPROCESSING_OPTIONS = ("resize", "crop", "fit", "fill", "channels", "window", "interpolation", "mean", "std")


def add_options(parser: argparse.ArgumentParser) -> None:
    add_models_dir(parser)
    parser.add_argument(
        "--weights",
        type=weights,
        required=True,
        metavar="imagenet|imagenet-v2|demo|random|FILE",
        help="torchvision's ImageNet weights (V1 or V2), the demo network, random weights (for benchmarks), or a .pth "
        "or .safetensors FILE with torchvision's or timm's parameter names",
    )
    parser.add_argument("--name", help="name of the published model (default: the architecture's, such as resnet50)")
    parser.add_argument(
        "--license",
        type=license_text,
        metavar="TEXT",
        help="license of the weights, for the model card: an SPDX identifier, such as Apache-2.0, or a sentence "
        "(default: what torchvision says of its weights, Apache-2.0 for the demo, else not stated)",
    )
    parser.add_argument("--train", action="store_true", help="train the demo network now (only for --weights demo)")
    parser.add_argument("--seed", type=seed, help="seed for random weights and for --train (default: 0)")

    parser.add_argument(
        "--views",
        type=int,
        choices=(5, 10),
        help="answer with the mean over the corners and the centre of the resized image (5), also of their mirror "
        "images (10): a little more accurate, and as many times slower",
    )

    network = parser.add_argument_group("the network", "not needed if FILE records it")
    add_network_options(network, family="(default: imagenet)", variant="; never guessed for a FILE")

    file = parser.add_argument_group("for a FILE of weights", "how the network was trained, unless FILE records it")
    file.add_argument("--labels", type=path, help="file of class names, if FILE has none: .txt, .json, .tsv or .csv")
    file.add_argument("--resize", type=int, help="shorter side in pixels before cropping (FILE only; default: 256)")
    file.add_argument(
        "--crop",
        type=int,
        nargs="+",
        metavar="PIXELS",
        help="side of the network's input, or its height and width, in pixels (FILE only; default: 224)",
    )
    file.add_argument(
        "--fit",
        choices=get_args(Fit),
        help="crop: resize the shorter side, then cut out the centre; squash: resize the image as it is; letterbox: "
        "keep its proportions and add bars (FILE only; default: crop)",
    )
    file.add_argument(
        "--fill", type=int, nargs=3, metavar=("R", "G", "B"), help="colour of the bars (FILE only; default: black)"
    )
    file.add_argument("--channels", type=int, choices=(1, 3), help="1: grey images (FILE only; default: 3)")
    file.add_argument(
        "--window",
        type=int,
        nargs=2,
        metavar=("LOW", "HIGH"),
        help="values of 16-bit images that become black and white (FILE only; default: by each file)",
    )
    file.add_argument(
        "--interpolation", choices=get_args(Interpolation), help="filter for resizing (FILE only; default: bilinear)"
    )
    file.add_argument(
        "--head",
        choices=get_args(HeadKind),
        help="what the logits mean; sigmoid: multi-label, or a single logit (FILE only; default: softmax)",
    )
    for name, statistic in (("mean", "mean"), ("std", "standard deviation")):
        file.add_argument(
            f"--{name}",
            type=float,
            nargs=3,
            metavar=("R", "G", "B"),
            help=f"{statistic} of each channel, for pixels from 0 to 1 (FILE only; default: ImageNet's)",
        )


def run(args: argparse.Namespace) -> int:
    check_writable(args.models_dir)
    default_name = DEMO_NAME if args.weights == "demo" else None
    loaded = load(args)
    if args.license is not None:
        loaded = loaded._replace(weights=loaded.weights.model_copy(update={"license": args.license}))
    if args.views:
        loaded = with_views(loaded, args.views)
    card = publish(loaded, args.models_dir, args.name or default_name)
    log.info("%s: published as version %d in %s", card.name, card.version, args.models_dir / card.name)
    log.info(
        "%s: served in fp32%s. int8 (CPUs), fp16 (NVIDIA GPUs) and bf16 (CPUs that have it) are faster; to allow one, "
        "compare it with fp32 on pictures of your own: python -m model_export quantize %s --data FOLDER --precision "
        "int8|fp16|bf16",
        card.name,
        had_before(args.models_dir, card),
        f"{card.name}@{card.version}",  # the name alone may mean another version
    )
    return 0


def had_before(root: Path, card: ModelCard) -> str:
    """In words, what lower precisions the version before had; empty without any."""
    earlier = [entry for entry in model_versions(root) if entry.name == card.name and entry.version < card.version]
    if not earlier:
        return ""
    before = max(earlier, key=lambda entry: entry.version)
    try:
        compared = read_card(before.path).compared
    except CardError:  # which does not concern the new version
        return ""
    return f" (version {before.version} also in {', '.join(compared)})" if compared else ""


def with_views(loaded: Loaded, count: int) -> Loaded:
    """The network with a graph that averages over several crops of what was the resized centre square.

    Raises:
        InputError: there is nothing to cut crops out of, or the head is not softmax.
    """
    p = loaded.preprocessing
    if loaded.head.multi_label:
        raise InputError("--views averages the probabilities of softmax, and the head is sigmoid: leave it out")
    if not p.cuts_a_square or p.resize == p.height:
        raise InputError("--views needs squares that are smaller than the resized image: leave it out")
    views = {"count": count, "size": p.height}
    preprocessing = Preprocessing.model_validate(p.model_dump() | {"crop": p.resize, "views": views})
    return loaded._replace(preprocessing=preprocessing, accuracy=None)  # which was measured with one crop


def license_text(text: str) -> str:
    """Type of --license: something to read in one line."""
    text = text.strip()
    if not text or not text.isprintable():
        raise argparse.ArgumentTypeError(f"not a license: {text!r} (expected an SPDX identifier or one line of text)")
    return text


def load(args: argparse.Namespace) -> Loaded:
    """The network that `--weights` and the options beside it describe.

    Raises:
        InputError: the options do not go together, or the weights cannot be used.
        Unavailable: torchvision's weights cannot be downloaded.
        ValueError: there is no such network.
    """
    check_options(args)
    if args.weights == "demo":
        return train_demo(args.seed or 0) if args.train else shipped_demo()
    if args.weights == "random":
        return load_random(args)
    if args.weights in get_args(TorchvisionWeights):
        return load_torchvision(args)
    loaded = with_preprocessing(load_weight_file(Path(args.weights), args), args)
    if args.head is None or args.head == loaded.head.kind:
        return loaded
    return loaded._replace(head=Head(kind=args.head), accuracy=None)  # which was measured with the other head


def check_options(args: argparse.Namespace) -> None:
    """Raises InputError if an option was given that has no effect with these `--weights`."""
    if args.weights == "demo":
        refuse(args, NETWORK_OPTIONS, "other weights (the demo is a ResNet-18)")
    elif args.train:
        raise InputError(
            "--train only applies to `--weights demo`: to train your own network, use `python -m model_export train`"
        )
    if args.weights in (*get_args(TorchvisionWeights), "demo", "random"):
        refuse(args, ("labels", "head", *PREPROCESSING_OPTIONS), "a FILE of weights")
    if not (args.weights == "random" or args.train):
        refuse(args, ("seed",), "`--weights random` and `--weights demo --train`")


def load_random(args: argparse.Namespace) -> Loaded:
    if args.depth is None:
        raise InputError("--weights random needs the network's depth: give --depth")
    family: Family = args.family or "imagenet"
    architecture = Architecture(
        depth=args.depth,
        family=family,
        variant=args.variant or "v1.5",
        shortcut=shortcut_of(args.shortcut, family),
        num_classes=1000 if family == "imagenet" else 10,
    )
    return random_weights(architecture, args.seed or 0)


def with_preprocessing(loaded: Loaded, args: argparse.Namespace) -> Loaded:
    """The network with the preprocessing that was given; the rest stays as loaded."""
    given = {name: getattr(args, name) for name in PREPROCESSING_OPTIONS if getattr(args, name) is not None}
    if "crop" in given:
        if len(given["crop"]) > 2:
            raise InputError("--crop takes a side, or height and width")
        given["crop"] = given["crop"][0] if len(given["crop"]) == 1 else given["crop"]
    if loaded.mean_image is not None and given.keys() & {"crop", "mean"}:
        raise InputError(f"{args.weights} has a mean image, which fixes both values: leave --crop and --mean out")
    fields = loaded.preprocessing.model_dump() | given
    try:
        preprocessing = Preprocessing.model_validate(fields)
    except ValidationError as error:
        fault = error.errors()[0]["msg"].removeprefix("Value error, ")
        raise InputError(fault + ": set --resize as well" * fault.startswith("crop ")) from None
    accuracy = loaded.accuracy if preprocessing == loaded.preprocessing else None  # it was measured with the other one
    return loaded._replace(preprocessing=preprocessing, accuracy=accuracy)
