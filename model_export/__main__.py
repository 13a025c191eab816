"""`python -m model_export`: train, evaluate, prove, publish, quantise; list, verify and inspect what is published."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from pydantic import ValidationError

from model_export.cli import demo, draw, evaluate, quantize, study, train
from model_export.cli.options import (
    PublishedWeights,
    check_writable,
    path,
    published_weights,
    refuse,
    seed,
    version_of,
    weights,
)
from model_export.demo import shipped_demo, train_demo
from model_export.errors import InputError
from model_export.onnx_export import ExportError
from model_export.parity import ParityFailed
from model_export.publish import publish
from model_export.quantise.gate import GateFailed
from model_export.quickstart import DEMO_NAME, quickstart
from model_export.random_weights import random_weights
from model_export.weights import Family, Loaded, ShortcutOption, load_file, shortcut_of
from service.card import (
    Architecture,
    CardError,
    Interpolation,
    ModelCard,
    Preprocessing,
    Published,
    Variant,
    nothing_in,
    published,
)
from service.card import verify_digests as check_digests
from service.engine import SelfTestFailed
from service.loading import load_engine
from service.providers import ProviderChoice, ProviderUnavailable, usable_cores

log = logging.getLogger("model_export")

PREPROCESSING = ("resize", "crop", "interpolation", "mean", "std")
NETWORK = ("depth", "family", "variant", "shortcut")

# What ends a command with one sentence. (ValueError: no such network, no such name.)
FAULTS = (InputError, ExportError, ParityFailed, GateFailed, CardError, ProviderUnavailable, SelfTestFailed, ValueError)


def load(args: argparse.Namespace) -> Loaded:
    """What `--weights` and the options beside it mean.

    Raises:
        InputError: they do not go together, or the weights cannot be used.
        Unavailable: published weights cannot be had.
    """
    if args.weights == "demo":
        refuse(args, NETWORK, "the other weights (the demo is a ResNet-18)")
    elif args.train:
        raise InputError("--train is for `--weights demo`; `python -m model_export train` trains networks of your own")
    if args.weights in (*get_args(PublishedWeights), "demo", "random"):
        refuse(args, ("labels", *PREPROCESSING), "a FILE of weights")
    if not (args.weights == "random" or args.train):
        refuse(args, ("seed",), "`--weights random` and `--weights demo --train`")

    if args.weights == "demo":
        return train_demo(args.seed or 0) if args.train else shipped_demo()
    if args.weights in get_args(PublishedWeights):
        return published_weights(args)
    if args.weights == "random":
        if args.depth is None:
            raise InputError("say which network with --depth")
        family: Family = args.family or "imagenet"
        architecture = Architecture(
            depth=args.depth,
            family=family,
            variant=args.variant or "v1.5",
            shortcut=shortcut_of(args.shortcut, family),
            num_classes=1000 if family == "imagenet" else 10,
        )
        return random_weights(architecture, args.seed or 0)
    loaded = load_file(
        Path(args.weights),
        depth=args.depth,
        family=args.family,
        variant=args.variant,
        shortcut=args.shortcut,
        labels=args.labels,
    )
    given = {name: getattr(args, name) for name in PREPROCESSING if getattr(args, name) is not None}
    if loaded.mean_image is not None and given.keys() & {"crop", "mean"}:
        raise InputError(f"{args.weights} has a mean per pixel: leave --crop and --mean out")
    try:
        preprocessing = Preprocessing.model_validate(loaded.preprocessing.model_dump() | given)
    except ValidationError as error:
        raise InputError(error.errors()[0]["msg"].removeprefix("Value error, ")) from None
    return loaded._replace(preprocessing=preprocessing)


def export(args: argparse.Namespace) -> int:
    check_writable(args.models_dir)
    default_name = DEMO_NAME if args.weights == "demo" else None
    card = publish(load(args), args.models_dir, args.name or default_name)
    log.info("%s: published as version %d in %s", card.name, card.version, args.models_dir / card.name)
    return 0


def run_quickstart(args: argparse.Namespace) -> int:
    check_writable(args.models_dir)
    quickstart(args.models_dir)
    return 0


def list_models(args: argparse.Namespace) -> int:
    rows = [("NAME", "VERSION", "DEPTH", "VARIANT", "SHORTCUT", "CLASSES", "TOP-1", "MB", "FILES", "WEIGHTS")]
    for entry in published(args.models_dir):
        try:
            card = ModelCard.read(entry.path)
        except CardError as error:
            log.warning("%s %d: %s", entry.name, entry.version, error)
            continue
        architecture = card.architecture
        rows.append(
            (
                card.name,
                str(card.version),
                str(architecture.depth),
                architecture.variant,
                architecture.shortcut or "none",
                str(architecture.num_classes),
                f"{100 * card.accuracy.top1:.1f} %" if card.accuracy else "?",
                f"{card.files['fp32'].bytes / 1e6:.0f}",
                ", ".join(card.files),
                card.weights.source,
            )
        )
    if len(rows) == 1:
        print(nothing_in(args.models_dir))
        return 0
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    return 0


def verify(args: argparse.Namespace) -> int:
    """Digests and self-test of one model or of all; 1 if any fails."""
    failed = False
    for entry in chosen(args):
        try:
            card = ModelCard.read(entry.path)
            check_digests(entry.path, card)
            engine = load_engine(entry.path, card, provider=args.provider, threads=usable_cores())
        except (CardError, ProviderUnavailable, SelfTestFailed) as error:
            print(f"{entry.name} {entry.version}: FAILED: {error}")
            failed = True
        else:
            print(
                f"{entry.name} {entry.version}: ok: digests match, and the stored answers are reproduced "
                f"on {engine.provider} in {engine.compute}"
            )
    return 1 if failed else 0


def inspect(args: argparse.Namespace) -> int:
    for entry in chosen(args):
        card = ModelCard.read(entry.path)
        fields = card.model_dump(mode="json", exclude={"labels"})
        for name, value in fields.items():
            if isinstance(value, dict):
                print(f"{name}:")
                for key, inner in value.items():
                    print(f"  {key}: {inner}")
            else:
                print(f"{name}: {value}")
        shown = ", ".join(label.name for label in card.labels[:10])
        print(f"labels: {len(card.labels)}: {shown}{', ...' if len(card.labels) > 10 else ''}")
    return 0


def chosen(args: argparse.Namespace) -> list[Published]:
    """The versions that `NAME` and `--version` mean: of a name its latest version, without a name everything."""
    if args.name is None:
        refuse(args, ("version",), "the model that NAME names")
        entries = list(published(args.models_dir))
        if not entries:
            raise InputError(nothing_in(args.models_dir))
        return entries
    return [version_of(args.models_dir, args.name, args.version)]


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="python -m model_export", description=__doc__)
    commands = top.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, run: object, text: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=text, description=text)
        sub.set_defaults(run=run)
        sub.add_argument("--models-dir", type=path, default=Path("models"), help="the model folder (default: models)")
        return sub

    command("quickstart", run_quickstart, "Get a working model by the best means at hand, and say which.")

    sub = command("export", export, "Load or train a network, convert it to ONNX, prove it and publish it.")
    sub.add_argument(
        "--weights",
        type=weights,
        required=True,
        metavar="imagenet|imagenet-v2|demo|random|FILE",
        help="torchvision's published weights; the drawn demo; random ones, for benchmarks; or a .pth or .safetensors "
        "file with torchvision's or timm's parameter names",
    )
    sub.add_argument(
        "--depth", type=int, help="18, 34, 50, 101 or 152; with --family cifar, 6n+2 (default: what FILE records)"
    )
    sub.add_argument("--family", choices=get_args(Family), help="(default: imagenet, or what FILE records)")
    sub.add_argument("--variant", choices=get_args(Variant), help="where a bottleneck has its stride; never guessed")
    sub.add_argument(
        "--shortcut", choices=get_args(ShortcutOption), help="none: a plain net (default: B; of the cifar family A)"
    )
    sub.add_argument(
        "--labels", type=path, help="class names of a FILE, where it does not hold them: .txt, .json, .tsv, .csv"
    )
    sub.add_argument(
        "--resize", type=int, help="of a FILE: the shorter side, in pixels, before cropping (default: 256)"
    )
    sub.add_argument("--crop", type=int, help="of a FILE: side of the network's input, in pixels (default: 224)")
    sub.add_argument("--interpolation", choices=get_args(Interpolation), help="of a FILE: (default: bilinear)")
    for statistic in ("mean", "std"):
        sub.add_argument(
            f"--{statistic}", type=float, nargs=3, metavar=("R", "G", "B"), help="of a FILE: (default: ImageNet's)"
        )
    sub.add_argument("--name", help="to publish under (default: by architecture, such as resnet50)")
    sub.add_argument("--train", action="store_true", help="train the demo here and now, instead of the one that ships")
    sub.add_argument("--seed", type=seed, help="of random weights and of `demo --train` (default: 0)")

    command("list", list_models, "Show what is published.")

    for module in (draw, train, evaluate, quantize, study, demo):
        module.add_parser(commands)

    for name, run, text in (
        ("verify", verify, "Check the digests and the stored self-test answers of one model, or of all."),
        ("inspect", inspect, "Print a model card, or all of them."),
    ):
        sub = command(name, run, text)
        sub.add_argument("name", nargs="?", help="(default: every published version)")
        sub.add_argument("--version", type=int, help="(default: the latest)")
        if run is verify:
            sub.add_argument("--provider", choices=get_args(ProviderChoice), default="auto", help="(default: auto)")
    return top


def main(arguments: Sequence[str]) -> int:
    """Returns the exit status: 0, or 1 with one sentence on stderr."""
    logging.basicConfig(format="%(message)s", stream=sys.stderr)
    for ours in ("model_export", "service"):  # the exporter and httpx talk too much at this level
        logging.getLogger(ours).setLevel(logging.INFO)
    args = parser().parse_args(arguments)
    try:
        status = int(args.run(args))
        sys.stdout.flush()  # what cannot be written is found here, and not when nobody catches it any more
        return status
    except BrokenPipeError:  # `| head` has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except FAULTS as error:
        print(f"error: {error}", file=sys.stderr)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        print(f"error: {where}{error.strerror or error}", file=sys.stderr)
    except KeyboardInterrupt:
        print("interrupted: nothing is half-published", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
