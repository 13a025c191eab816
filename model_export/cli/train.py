"""The `train` command: trains a network on a data set by a recipe."""

from __future__ import annotations

import argparse
import logging
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

from model_export.cli.data_options import (
    FOLDER_OPTIONS,
    add_folds,
    add_layout,
    fold_of,
    layout_of,
    refuse_folder_options,
)
from model_export.cli.machine_options import add_machine_options, machine_of
from model_export.cli.options import check_writable, path, refuse, seed
from model_export.cli.weight_options import (
    TorchvisionWeights,
    add_network_options,
    load_torchvision,
    load_weight_file,
    weights,
)
from model_export.datasets.image_folder import OnBroken
from model_export.errors import InputError
from model_export.evaluation.metrics import top_k_accuracy
from model_export.training import checkpoint
from model_export.training.callbacks import Callback
from model_export.training.distributed import Processes, join_processes
from model_export.training.history import Row
from model_export.training.machine import Machine
from model_export.training.recipe import RECIPE_NAMES, Recipe, RecipeName, describe, override, recipe_for
from model_export.training.run import describe_inputs, new_run, resumed_run
from model_export.training.start import check_weights, fit_sizes
from model_export.training.stopping import Stopped
from model_export.training.trackers import open_trackers
from model_export.training.trainer import Trainer
from model_export.weights.defaults import Family, shortcut_of
from model_export.weights.loading import Loaded
from service.runtime.model_card import Architecture

log = logging.getLogger(__name__)

DEFAULT_RECIPE: RecipeName = "finetune"
NETWORK_OPTIONS = ("depth", "family", "variant", "shortcut")
NEW_RUN_OPTIONS = ("recipe", "weights", *NETWORK_OPTIONS, "out", "seed", "folds", "fold", *FOLDER_OPTIONS)
FIELDS_WITHOUT_OPTION = {"name", "family"}  # of a recipe: `--recipe` and `--family` choose them


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.epilog = (
        "Every field of the recipe is an option; `train --recipe NAME --show` prints their values. On several GPUs: "
        "torchrun --nproc-per-node 8 -m model_export train ..."
    )
    source = parser.add_mutually_exclusive_group()
    source.add_argument(
        "--data",
        metavar="SPEC",
        help="what to train on: a folder with train/CLASS/*.jpg and val/ or test/ beside it, or with CLASS/*.jpg; "
        "cifar10 or cifar10:PATH; drawings or drawings:side=32,train=4096,val=1024,difficulty=hard,...",
    )
    source.add_argument("--resume", type=path, metavar="RUN", help="folder of a stopped run to resume")
    source.add_argument("--show", action="store_true", help="print the recipe and exit")
    parser.add_argument("--recipe", choices=RECIPE_NAMES, help=f"how to train (default: {DEFAULT_RECIPE})")
    parser.add_argument(
        "--weights",
        type=weights,
        metavar="imagenet|imagenet-v2|FILE",
        help="weights to start from: torchvision's ImageNet weights (V1 or V2), or a .pth or .safetensors FILE "
        "(default: none, a new network)",
    )
    parser.add_argument("--out", type=path, help="folder of the run (default: runs/NETWORK-RECIPE)")
    parser.add_argument("--seed", type=seed, help="seed of weights, split, image order and augmentation (default: 0)")
    add_folds(parser)

    network = parser.add_argument_group("the network", "not needed if FILE records it")
    add_network_options(
        network, family="(default: the recipe's)", variant=" (default: v1.5; v1 for the paper's recipes)"
    )

    folder = parser.add_argument_group("for a folder of images")
    folder.add_argument("--val-share", type=float, help="share to validate on if there is no val/ (default: 0.1)")
    folder.add_argument("--broken", choices=get_args(OnBroken), help="what to do with broken images (default: refuse)")
    add_layout(folder)

    add_machine_options(parser)

    recipe = parser.add_argument_group("the recipe", "fields to override (docs/recipes.md lists the recipes)")
    for name, field in Recipe.model_fields.items():
        if name not in FIELDS_WITHOUT_OPTION:
            recipe.add_argument(
                f"--{name.replace('_', '-')}",
                dest=f"recipe_{name}",
                metavar=name.upper(),
                nargs="*" if "tuple" in str(field.annotation) else None,
                help=(field.description or "").replace("\n", " ").replace("%", "%%") or None,
            )


def run(args: argparse.Namespace) -> int:
    changes = recipe_changes(args)
    if args.show:
        refuse(args, (name for name in NEW_RUN_OPTIONS if name not in ("recipe", "depth")), "a run")
        recipe = recipe_for(args.recipe or DEFAULT_RECIPE, Architecture(depth=args.depth or 0))
        print("\n".join(f"{name} {value}" for name, value in describe(override(recipe, changes))))
        return 0
    content = checkpoint.load(args.resume) if args.resume else None
    machine = machine_of(args, content["machine"] if content else {})
    trackers = open_trackers(machine.log_to)  # before the data is read, which may take long
    with join_processes(machine.device) as processes:
        if not processes.first:
            for package in ("model_export", "service"):
                logging.getLogger(package).setLevel(logging.ERROR)
        trainer = (
            resume(args, changes, content, machine, processes, trackers)
            if content
            else start(args, changes, machine, processes, trackers)
        )
        try:
            rows = trainer.run()
        except Stopped as stopped:
            if processes.first:
                command = f"python -m model_export train --resume {shlex.quote(str(trainer.folder))}"
                print(f"{stopped}; resume with: {command}", file=sys.stderr)
            return 128 + stopped.signum
        if processes.first:
            report(trainer, rows)
    return 0


def report(trainer: Trainer, rows: Sequence[Row]) -> None:
    """Evaluates and reports the finished run, and says how to publish its best weights."""
    from model_export.report.finished_run import report_run  # imports matplotlib, which only reports need

    evaluation = report_run(trainer, rows)
    best = trainer.folder / checkpoint.BEST
    log.info(
        "%s: top-1 %.2f %%, top-5 %.2f %% of %d images of %s; see %s",
        best,
        100 * top_k_accuracy(evaluation, 1),
        100 * top_k_accuracy(evaluation, 5),
        len(evaluation.labels),
        evaluation.dataset,
        trainer.folder / "report.html",
    )
    log.info("publish it: python -m model_export export --weights %s --name my-model", shlex.quote(str(best)))


def recipe_changes(args: argparse.Namespace) -> dict[str, Any]:
    """The recipe's fields that were given as options, as text; "none" becomes None, or an empty tuple."""
    given = {name: getattr(args, f"recipe_{name}") for name in Recipe.model_fields if name not in FIELDS_WITHOUT_OPTION}
    empty = {"none": None, ("none",): ()}
    return {
        name: empty.get(tuple(value) if isinstance(value, list) else value, value)
        for name, value in given.items()
        if value is not None
    }


def start(
    args: argparse.Namespace,
    changes: dict[str, Any],
    machine: Machine,
    processes: Processes,
    trackers: Sequence[Callback],
) -> Trainer:
    """A new run.

    Raises:
        InputError: the options, the weights or the data cannot be used, or the folder holds another run.
    """
    if args.data is None:
        raise InputError("no data to train on: give --data, a folder of images, cifar10 or drawings")
    refuse_folder_options(args)
    loaded = load_weights(args)
    architecture, recipe = choose_network(args, changes, loaded)
    check_weights(recipe, loaded)  # before the data is read, which may take long
    folder = args.out or Path("runs") / f"{architecture.name}-{recipe.name}"
    check_writable(folder)
    if (folder / checkpoint.LAST).exists():
        raise InputError(f"{folder} already holds a run: resume it with `--resume {folder}`, or choose another --out")
    inputs = describe_inputs(
        args.data,
        val_share=0.1 if args.val_share is None else args.val_share,
        fold=fold_of(args),
        broken=args.broken or "refuse",
        layout=layout_of(args),
        loaded=loaded,
    )
    return new_run(
        architecture,
        recipe,
        inputs,
        folder,
        loaded=loaded,
        seed=args.seed or 0,
        machine=machine,
        processes=processes,
        callbacks=trackers,
    )


def load_weights(args: argparse.Namespace) -> Loaded | None:
    if args.weights is None:
        return None
    if args.weights in get_args(TorchvisionWeights):
        return load_torchvision(args)
    return load_weight_file(Path(args.weights), args)


def choose_network(
    args: argparse.Namespace, changes: dict[str, Any], loaded: Loaded | None
) -> tuple[Architecture, Recipe]:
    """The network, which is that of the weights if there are any, and its recipe."""
    recipe = recipe_for(args.recipe or DEFAULT_RECIPE)
    if loaded is not None:
        if recipe.normalisation == "weights":
            recipe = fit_sizes(recipe, loaded, set(changes))
        return loaded.net.architecture, override(recipe, changes)
    if args.depth is None:
        raise InputError("no network chosen: give --depth, or --weights to start from")
    family: Family = args.family or recipe.family
    architecture = Architecture(
        depth=args.depth,
        family=family,
        variant=args.variant or ("v1" if recipe.name.startswith("paper") else "v1.5"),
        shortcut=shortcut_of(args.shortcut, family),
    )
    return architecture, override(recipe_for(recipe.name, architecture), changes)


def resume(
    args: argparse.Namespace,
    changes: dict[str, Any],
    content: checkpoint.Content,
    machine: Machine,
    processes: Processes,
    trackers: Sequence[Callback],
) -> Trainer:
    """The stopped run in `--resume`.

    Raises:
        InputError: its data has changed, or options would change what it computes.
    """
    if given := [*changes, *(name for name in NEW_RUN_OPTIONS if getattr(args, name) is not None)]:
        options = ", ".join(f"--{name.replace('_', '-')}" for name in given)
        raise InputError(
            f"a resumed run keeps its settings: leave {options} out, or start a new run from its weights with --weights"
        )
    return resumed_run(args.resume, content, machine=machine, processes=processes, callbacks=trackers)
