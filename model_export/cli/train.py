"""`python -m model_export train`: a network, a recipe and a folder of pictures."""

from __future__ import annotations

import argparse
import logging
import math
import shlex
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any, TypedDict, get_args

from model_export.cli.options import (
    PublishedWeights,
    add_layout,
    check_writable,
    layout_of,
    path,
    positive,
    published_weights,
    refuse,
    refuse_of_other_data,
    seed,
    weights,
)
from model_export.datasets.base import Data
from model_export.datasets.folder import OnBroken
from model_export.datasets.layout import Layout, expanded
from model_export.datasets.opening import is_folder, open_data
from model_export.errors import InputError
from model_export.evaluation.evaluating import evaluate
from model_export.evaluation.metrics import top_k_accuracy
from model_export.evaluation.predictors import TorchPredictor
from model_export.evaluation.recording import accuracy_of
from model_export.evaluation.result import Evaluation
from model_export.training import checkpoint
from model_export.training.distributed import Processes, joined
from model_export.training.history import Row
from model_export.training.recipe import NAMES, Recipe, RecipeName, described, named, override
from model_export.training.start import begin, check_weights, fitted, resume
from model_export.training.trainer import DeviceChoice, Machine, Precision, Stopped, Trainer
from model_export.weight_files import Record, save_safetensors
from model_export.weights import Family, Loaded, ShortcutOption, load_file, shortcut_of
from service.card import Architecture, Variant
from service.providers import usable_cores

log = logging.getLogger(__name__)

DEFAULT_RECIPE: RecipeName = "finetune"
OF_A_NEW_RUN = (
    "recipe",
    "weights",
    "depth",
    "family",
    "variant",
    "shortcut",
    "out",
    "val_share",
    "broken",
    "split",
    "ignore",
    "seed",
)
NO_OPTIONS = {"name", "family"}  # fields of a recipe that --recipe and --family choose


class About(TypedDict):
    """Where a run's images and first weights come from, for its checkpoint."""

    data: str
    val_share: float
    broken: OnBroken
    split: str
    ignore: tuple[str, ...]
    weights: str


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    text = "Train a network of the paper on your own images, CIFAR-10 or drawings."
    sub = commands.add_parser(
        "train",
        help=text,
        description=text,
        epilog="Several GPUs: torchrun --nproc-per-node 8 -m model_export train ... Every field of the recipe is an "
        "option; `train --recipe NAME --show` prints them with their values.",
    )
    sub.set_defaults(run=run)
    source = sub.add_mutually_exclusive_group()
    source.add_argument(
        "--data",
        metavar="SPEC",
        help="a folder with train/CLASS/*.jpg and val/CLASS/*.jpg, or with CLASS/*.jpg; cifar10 or cifar10:PATH; "
        "drawings or drawings:side=32,train=4096,val=1024,difficulty=hard,...",
    )
    source.add_argument("--resume", type=path, metavar="RUN", help="the folder of a run to go on with")
    source.add_argument("--show", action="store_true", help="print the recipe and stop")
    sub.add_argument("--recipe", choices=NAMES, help="(default: finetune)")
    sub.add_argument(
        "--weights",
        type=weights,
        metavar="imagenet|imagenet-v2|FILE",
        help="to go on from: torchvision's published weights, or a .pth or .safetensors file (default: none)",
    )
    sub.add_argument("--depth", type=int, help="18, 34, 50, 101 or 152; of the cifar family 6n+2")
    sub.add_argument("--family", choices=get_args(Family), help="(default: the recipe's, or what FILE records)")
    sub.add_argument(
        "--variant", choices=get_args(Variant), help="stride of a bottleneck (default: v1.5, the paper: v1)"
    )
    sub.add_argument("--shortcut", choices=get_args(ShortcutOption), help="none: a plain net (default: B; cifar: A)")
    sub.add_argument("--out", type=path, help="the folder of the run (default: runs/NETWORK-RECIPE)")
    sub.add_argument("--val-share", type=float, help="of a folder without val/ (default: 0.1)")
    sub.add_argument("--broken", choices=get_args(OnBroken), help="images (default: refuse)")
    add_layout(sub)
    sub.add_argument("--seed", type=seed, help="(default: 0)")

    machine = sub.add_argument_group("the machine", "may be changed when a run is resumed")
    machine.add_argument("--device", choices=get_args(DeviceChoice), help="(default: auto)")
    machine.add_argument(
        "--precision",
        choices=get_args(Precision),
        help="of convolutions (default: auto, bf16 where the hardware has it)",
    )
    machine.add_argument("--channels-last", action=argparse.BooleanOptionalAction, help="(default: yes)")
    machine.add_argument("--compile", action=argparse.BooleanOptionalAction, help="(default: no)")
    machine.add_argument(
        "--workers", type=loader_workers, help="processes that read images (default: the cores less one, <= 16)"
    )
    machine.add_argument("--checkpoint-minutes", type=minutes, help="(default: 10)")
    machine.add_argument("--keep", type=positive, help="best weights to keep (default: 3)")

    recipe = sub.add_argument_group("the recipe", "fields to override (see docs/training.md)")
    for name, field in Recipe.model_fields.items():
        if name not in NO_OPTIONS:
            several = {"nargs": "*"} if "tuple" in str(field.annotation) else {}
            meaning = (field.description or "").replace("\n", " ").replace("%", "%%")
            recipe.add_argument(f"--{name.replace('_', '-')}", dest=f"recipe_{name}", help=meaning or None, **several)  # type: ignore[arg-type]


def run(args: argparse.Namespace) -> int:
    changes = overrides(args)
    if args.show:
        refuse(args, (name for name in OF_A_NEW_RUN if name not in ("recipe", "depth")), "a run")
        shape = Architecture(depth=args.depth or 0)
        print("\n".join(lines(override(named(args.recipe or DEFAULT_RECIPE, shape), changes))))
        return 0
    content = checkpoint.load(args.resume) if args.resume else None
    machine = machine_of(args, content["machine"] if content else {})
    with joined(machine.device) as processes:
        if not processes.first:
            for ours in ("model_export", "service"):
                logging.getLogger(ours).setLevel(logging.ERROR)
        trainer = (
            resumed(args, changes, machine, content, processes) if content else new(args, changes, machine, processes)
        )
        try:
            rows = trainer.run()
        except Stopped as stopped:
            if processes.first:
                print(f"{stopped}; resume with: {resume_command(trainer.folder)}", file=sys.stderr)
            return 128 + stopped.signum
        if processes.first:
            finish(trainer, rows)
    return 0


def loader_workers(text: str) -> int:
    """The type of --workers."""
    number, most = int(text), max(16, 4 * usable_cores())
    if not 0 <= number <= most:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and {most}, on {usable_cores()} cores")
    return number


def minutes(text: str) -> float:
    """The type of --checkpoint-minutes."""
    number = float(text)
    if not 0 <= number < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is no time: give minutes, 0 for after every step")
    return number


def overrides(args: argparse.Namespace) -> dict[str, Any]:
    """The recipe's fields that are given on the command line; "none" and "yes" mean what they say."""
    given = {name: getattr(args, f"recipe_{name}") for name in Recipe.model_fields if name not in NO_OPTIONS}
    empty = {"none": None, ("none",): ()}
    return {
        name: empty.get(tuple(value) if isinstance(value, list) else value, value)
        for name, value in given.items()
        if value is not None
    }


def new(args: argparse.Namespace, changes: dict[str, Any], machine: Machine, processes: Processes) -> Trainer:
    """A run from its beginning.

    Raises:
        InputError: the options, the weights or the data cannot be used, or the folder holds another run.
    """
    if args.data is None:
        raise InputError("say what to train on with --data: a folder of pictures, cifar10 or drawings")
    refuse_of_other_data(args)
    recipe = named(args.recipe or DEFAULT_RECIPE)
    loaded = load_weights(args)
    if loaded is not None:
        shape = loaded.net.architecture
        if recipe.normalisation == "weights":
            recipe = fitted(recipe, loaded, set(changes))
    elif args.depth is None:
        raise InputError("say which network with --depth, or give --weights to go on from")
    else:
        family: Family = args.family or recipe.family
        shape = Architecture(
            depth=args.depth,
            family=family,
            variant=args.variant or ("v1" if recipe.name.startswith("paper") else "v1.5"),
            shortcut=shortcut_of(args.shortcut, family),
        )
        recipe = named(recipe.name, shape)
    recipe = override(recipe, changes)
    check_weights(recipe, loaded)  # before the data is read, which may take long
    folder = args.out or Path("runs") / f"{shape.name}-{recipe.name}"
    check_writable(folder)
    if (folder / checkpoint.LAST).exists():
        raise InputError(f"{folder} already holds a run: go on with `--resume {folder}`, or choose another --out")

    about: About = {
        "data": str(expanded(Path(args.data)).absolute())
        if is_folder(args.data)
        else args.data,  # to resume from anywhere
        "val_share": 0.1 if args.val_share is None else args.val_share,
        "broken": args.broken or "refuse",
        "split": layout_of(args).split,
        "ignore": layout_of(args).ignore,
        "weights": loaded.weights.source if loaded else "He initialisation",
    }
    seed = args.seed or 0
    data = processes.from_first(lambda: data_of(about, seed))
    architecture = shape.model_copy(update={"num_classes": len(data.train.classes)})
    start = processes.from_first(lambda: begin(architecture, recipe, data.train, loaded=loaded, seed=seed))
    folder.mkdir(parents=True, exist_ok=True)
    trainer = Trainer(start, recipe, data, folder, seed=seed, machine=machine, processes=processes, about=dict(about))
    announce(trainer)
    return trainer


def resumed(
    args: argparse.Namespace,
    changes: dict[str, Any],
    machine: Machine,
    content: checkpoint.Content,
    processes: Processes,
) -> Trainer:
    """A run that was stopped, where it was. Recipe, data and seed are the checkpoint's.

    Raises:
        InputError: its data has changed, or options would make it another run.
    """
    if given := [*changes, *(name for name in OF_A_NEW_RUN if getattr(args, name) is not None)]:
        options = ", ".join(f"--{name.replace('_', '-')}" for name in given)
        raise InputError(f"a resumed run goes on as it began: leave {options} out, or begin a new one with --weights")
    recipe = Recipe.model_validate(content["recipe"])
    about: About = content["about"]
    data = processes.from_first(lambda: data_of(about, content["seed"]))
    trainer = Trainer(
        resume(content),
        recipe,
        data,
        args.resume,
        seed=content["seed"],
        machine=machine,
        processes=processes,
        about=dict(about),
        resumed=content,
    )
    announce(trainer)
    log.info("resuming after step %d of %d", trainer.step, trainer.plan.steps)
    return trainer


def data_of(about: About, seed: int) -> Data:
    layout = Layout(about["split"], about["ignore"])
    return open_data(about["data"], val_share=about["val_share"], seed=seed, broken=about["broken"], layout=layout)


def machine_of(args: argparse.Namespace, stored: dict[str, Any]) -> Machine:
    """What is given on the command line, else stored, else the defaults."""
    given = {field.name: getattr(args, field.name) for field in fields(Machine)}
    return Machine(**{**stored, **{name: value for name, value in given.items() if value is not None}})


def load_weights(args: argparse.Namespace) -> Loaded | None:
    if args.weights is None:
        return None
    if args.weights in get_args(PublishedWeights):
        return published_weights(args)
    return load_file(
        Path(args.weights), depth=args.depth, family=args.family, variant=args.variant, shortcut=args.shortcut
    )


def announce(trainer: Trainer) -> None:
    """The run in full, before it begins."""
    if not trainer.processes.first:
        return
    log.info("recipe:\n%s", "\n".join(f"  {line}" for line in lines(trainer.recipe)))
    net, data = trainer.net, trainer.data
    log.info(
        "%s (%s, shortcut %s, %d classes, %.2f million parameters) on %s: %d training and %d validation images; "
        "%d steps of %d images on %s in %s, %d loader workers; run folder %s",
        net.architecture.name,
        net.architecture.variant,
        net.architecture.shortcut or "none",
        net.architecture.num_classes,
        sum(p.numel() for p in net.parameters()) / 1e6,
        data.train.name,
        len(data.train),
        len(data.val),
        trainer.plan.steps,
        trainer.plan.batch_size,
        f"{trainer.processes.world} processes" if trainer.processes.world > 1 else str(trainer.device),
        str(trainer.dtype or "torch.float32").removeprefix("torch."),
        trainer.machine.loader_workers,
        trainer.folder,
    )


def lines(recipe: Recipe) -> list[str]:
    return [f"{name} {value}" for name, value in described(recipe)]


def finish(trainer: Trainer, rows: list[Row]) -> None:
    """Evaluates the best weights as they will be served, records their accuracy, and draws the pictures."""
    folder, data, recipe = trainer.folder, trainer.data, trainer.recipe
    path = folder / checkpoint.BEST
    loaded = load_file(path)
    evaluation = evaluate(
        TorchPredictor(loaded, str(path), "cuda" if trainer.device.type == "cuda" else "cpu"), data.val
    )
    record_accuracy(path, loaded, evaluation)
    # they bring matplotlib, which only reports need
    from model_export.report.page import write_report
    from model_export.report.plots import curves, save

    save(curves(rows, f"{loaded.net.architecture.name}, {recipe.name}"), folder / "curves.png")
    best = min(rows, key=lambda row: row.val_error)
    write_report(
        folder / "report.html",
        title=f"{loaded.net.architecture.name} on {data.train.name}",
        summary=[
            ("best epoch", f"{best.epoch:.4g} of {rows[-1].epoch:.4g}"),
            ("training images", str(len(data.train))),
            ("time", f"{rows[-1].seconds / 60:.1f} min, {rows[-1].images_per_s:.0f} images/s"),
            *((name, str(value)) for name, value in trainer.about.items()),
        ],
        recipe=described(recipe),
        rows=rows,
        evaluation=evaluation,
        dataset=data.val,
    )
    log.info(
        "%s: top-1 %.2f %%, top-5 %.2f %% of %d validation images; look at %s",
        path,
        100 * top_k_accuracy(evaluation, 1),
        100 * top_k_accuracy(evaluation, 5),
        len(data.val),
        folder / "report.html",
    )
    log.info("publish it: python -m model_export export --weights %s --name my-model", shlex.quote(str(path)))


def record_accuracy(path: Path, loaded: Loaded, evaluation: Evaluation) -> None:
    """Writes the weights again with their accuracy, which `export` puts into the model card."""
    record = Record(
        architecture=loaded.net.architecture,
        preprocessing=loaded.preprocessing,
        labels=loaded.labels,
        accuracy=accuracy_of(evaluation),
    )
    save_safetensors(loaded.net.state_dict(), path, record, loaded.mean_image)


def resume_command(folder: Path) -> str:
    return f"python -m model_export train --resume {shlex.quote(str(folder))}"
