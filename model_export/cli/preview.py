"""The `preview` command: what the network sees of an image, and what it answers."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import NamedTuple, get_args

from model_export.cli.options import REFERENCE, add_models_dir, check_writable, path, positive
from model_export.cli.preview_text import as_json, as_text
from model_export.errors import InputError
from model_export.evaluation.gpu_decoding import MAX_PIXELS
from model_export.evaluation.preview import Preview, answer, compare, see
from model_export.paths import cache_folder
from model_export.versions import find_version
from service.runtime.choices import Precision, PrecisionChoice, ProviderChoice, ProviderName
from service.runtime.disk import write_atomically
from service.runtime.faults import ImageFault
from service.runtime.images.preview import to_png
from service.runtime.loading import load_engine
from service.runtime.machine import usable_cores
from service.runtime.model_folder import ModelVersion, explain_empty, model_versions, read_card, verify_digests
from service.runtime.model_state import read_folder_state
from service.runtime.tuning import Cache

KEPT = ".image"  # what the service keeps with `keep_failed`, beside a `.json` that names the model
CACHE = "~/.cache/resnet-service"  # the service's default


class Computer(NamedTuple):
    """What computes: a provider in a precision."""

    provider: ProviderName
    precision: Precision


def computer(text: str) -> Computer:
    """Type of --against."""
    provider, _, precision = text.partition(":")
    found = Computer(provider, precision or "fp32")  # type: ignore[arg-type]
    if found.provider not in get_args(ProviderName) or found.precision not in get_args(Precision):
        raise argparse.ArgumentTypeError(
            f"not a provider and a precision: {text!r}: write {'|'.join(get_args(ProviderName))}, alone or with "
            f":{'|:'.join(get_args(Precision))}"
        )
    return found


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "file", type=path, metavar="FILE", help="a JPEG, PNG or WebP, or a .image that the service kept"
    )
    parser.add_argument(
        "--model",
        metavar=REFERENCE,
        help="a published model, with the number or an alias of a version (default: the one that a kept image was for, "
        "else the default model)",
    )
    add_models_dir(parser)
    parser.add_argument(
        "--out", type=path, metavar="PNG", help="where to write the crop (default: FILE's name.crop.png)"
    )
    parser.add_argument("--json", action="store_true", help="print JSON, with every class")
    parser.add_argument("--top-k", type=positive, default=5, help="most classes to print (default: 5)")

    computes = parser.add_argument_group("what computes")
    computes.add_argument(
        "--provider",
        choices=get_args(ProviderChoice),
        default="auto",
        help="execution provider; auto: what the service has measured as the fastest here, else the first that works "
        "(default: auto)",
    )
    computes.add_argument(
        "--precision",
        choices=get_args(PrecisionChoice),
        default="auto",
        help="precision to compute in; auto: as for the provider (default: auto)",
    )
    computes.add_argument(
        "--against",
        type=computer,
        default=Computer("cpu", "fp32"),
        metavar="PROVIDER[:PRECISION]",
        help="what to compare with (default: cpu:fp32)",
    )

    service = parser.add_argument_group("settings of the service that change what it sees or what computes")
    service.add_argument(
        "--scaled-decoding",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="let the decoder shrink large JPEGs (default: yes)",
    )
    service.add_argument(
        "--max-pixels", type=positive, default=MAX_PIXELS, help=f"most pixels of the file (default: {MAX_PIXELS})"
    )
    service.add_argument(
        "--cache-dir",
        type=path,
        help=f"folder of its measurements, which is only read (default: RESNET_CACHE_DIR, else {CACHE})",
    )


def run(args: argparse.Namespace) -> int:
    """Computes everything, then writes the crop and prints.

    Raises:
        InputError: the file is no image that the service accepts, or there is no such model.
    """
    data = args.file.read_bytes()
    out: Path = args.out or Path(f"{args.file.stem}.crop.png")
    if out.exists() and out.samefile(args.file):
        raise InputError(f"{out} is the picture itself: give another file with --out")
    check_writable(out.parent)
    version = find_model(args)
    card = read_card(version.path)
    verify_digests(version.path, card)
    try:
        seen = see(data, card.preprocessing, max_pixels=args.max_pixels, scaled=args.scaled_decoding)
    except ImageFault as fault:
        raise InputError(f"{args.file}: {fault.title}. {str(fault).removesuffix('.')}. {fault.advice()}") from None

    cores = usable_cores()
    cache = args.cache_dir or cache_folder(os.environ.get("RESNET_CACHE_DIR") or CACHE)
    engine = load_engine(
        version.path,
        card,
        provider=args.provider,
        precision=args.precision,
        threads=cores,
        lanes=cores,
        cache=Cache(cache),
        measures=False,
    )
    answers = [answer(engine, card, seen.decoded.pixels)]
    if args.against != (engine.info.provider, engine.info.precision):
        other = load_engine(version.path, card, **args.against._asdict(), threads=cores)
        answers.append(answer(other, card, seen.decoded.pixels))
    difference = compare(*answers) if len(answers) == 2 else None
    write_atomically(out, to_png(seen.decoded.pixels))
    preview = Preview(args.file, len(data), out, card, seen, tuple(answers), difference)
    print(json.dumps(as_json(preview), indent=2) if args.json else as_text(preview, args.top_k))
    return 0


def find_model(args: argparse.Namespace) -> ModelVersion:
    """The version that --model names, else that of a kept image, else of the default model. Raises InputError."""
    root: Path = args.models_dir
    reference = args.model or _kept_for(args.file) or read_folder_state(root).default
    if reference is None:
        names = sorted({entry.name for entry in model_versions(root)})
        if not names:
            raise InputError(explain_empty(root))
        if len(names) > 1:
            raise InputError(f"{root} has no default model: give --model, one of {', '.join(names)}")
        (reference,) = names
    return find_version(root, reference)


def _kept_for(file: Path) -> str | None:
    """The model that an image was kept for, by the `.json` beside it; None for any other file."""
    if file.suffix != KEPT:
        return None
    try:
        facts = json.loads(file.with_suffix(".json").read_bytes())
        return f"{facts['model']}@{facts['version']}"
    except (OSError, ValueError, KeyError, TypeError):
        return None
