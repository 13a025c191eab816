"""Options that say what a run trains, on what and how: those of `train` and `find-lr`."""

from __future__ import annotations

import argparse
from pathlib import Path
from types import NoneType
from typing import Any, Literal, NamedTuple, get_args, get_origin

from model_export.cli.data_options import (
    FOLDER_OPTIONS,
    add_folds,
    add_layout,
    fold_of,
    layout_of,
    refuse_folder_options,
)
from model_export.cli.options import seed
from model_export.cli.weight_options import (
    TorchvisionWeights,
    add_network_options,
    load_torchvision,
    load_weight_file,
    weights,
)
from model_export.datasets.checking import OnBroken
from model_export.errors import InputError
from model_export.training.recipe import RECIPE_NAMES, Recipe, RecipeName, override
from model_export.training.recipes import recipe_for
from model_export.training.run import Inputs, describe_inputs
from model_export.training.start import check_network, check_weights, fit_sizes
from model_export.weights.defaults import Family, shortcut_of
from model_export.weights.loading import Loaded
from service.runtime.model_card import Architecture

DEFAULT_RECIPE: RecipeName = "finetune"
RUN_OPTIONS = (
    "recipe", "weights", "depth", "family", "variant", "shortcut", "seed", "folds", "fold", *FOLDER_OPTIONS
)  # fmt: skip
FIELDS_WITHOUT_OPTION = {"name", "family"}  # of a recipe: `--recipe` and `--family` choose them


class Chosen(NamedTuple):
    """What the options say of a new run."""

    architecture: Architecture
    recipe: Recipe
    inputs: Inputs
    loaded: Loaded | None


def add_data(parser: argparse._ActionsContainer) -> None:
    parser.add_argument(
        "--data",
        metavar="SPEC",
        help="what to train on: a folder with train/CLASS/*.jpg and val/ or test/ beside it, or with CLASS/*.jpg; or "
        "with a labels.csv in each part, for several labels; cifar10 or cifar10:PATH (with --split train,test: all "
        "50,000 images to train on, the test part to validate on); drawings or "
        "drawings:side=32,train=4096,val=1024,difficulty=hard,...",
    )


def add_run_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `RUN_OPTIONS`, and one for each field of the recipe; `chosen` reads them, and `--data`."""
    parser.add_argument("--recipe", choices=RECIPE_NAMES, help=f"how to train (default: {DEFAULT_RECIPE})")
    parser.add_argument(
        "--weights",
        type=weights,
        metavar="imagenet|imagenet-v2|FILE",
        help="weights to start from: torchvision's ImageNet weights (V1 or V2), or a .pth or .safetensors FILE "
        "(default: none, a new network)",
    )
    parser.add_argument("--seed", type=seed, help="seed of weights, split, image order and augmentation (default: 0)")
    add_folds(parser)

    network = parser.add_argument_group("the network", "not needed if FILE records it")
    add_network_options(
        network, family="(default: the recipe's)", variant=" (default: v1.5; v1 for the paper's recipes)"
    )

    folder = parser.add_argument_group("for a folder of images")
    folder.add_argument("--val-share", type=float, help="share to validate on if there is no val/ (default: 0.1)")
    folder.add_argument("--broken", choices=get_args(OnBroken), help="what to do with broken images (default: refuse)")
    add_layout(folder, training=True)

    recipe = parser.add_argument_group("the recipe", "fields to override (docs/recipes.md lists the recipes)")
    for name, field in Recipe.model_fields.items():
        if name not in FIELDS_WITHOUT_OPTION:
            recipe.add_argument(
                f"--{name.replace('_', '-')}",
                dest=f"recipe_{name}",
                metavar=_metavar(name, field.annotation),
                nargs="*" if "tuple" in str(field.annotation) else None,
                help=(field.description or "").replace("\n", " ").replace("%", "%%") or None,
            )


def _metavar(name: str, annotation: object) -> str:
    """The values that a field takes, if they are few; else its name."""
    kinds = [kind for kind in get_args(annotation) if kind is not NoneType] or [annotation]
    if annotation is bool:
        return "{yes,no}"
    if get_origin(annotation) is Literal:
        return f"{{{','.join(map(str, kinds))}}}"
    if get_origin(kinds[0]) is Literal:
        return f"{{{','.join((*get_args(kinds[0]), 'none'))}}}"
    return name.upper()


def recipe_changes(args: argparse.Namespace) -> dict[str, Any]:
    """The recipe's fields that were given as options, as text; "none" becomes None, or an empty tuple."""
    given = {name: getattr(args, f"recipe_{name}") for name in Recipe.model_fields if name not in FIELDS_WITHOUT_OPTION}
    empty = {"none": None, ("none",): ()}
    return {
        name: empty.get(tuple(value) if isinstance(value, list) else value, value)
        for name, value in given.items()
        if value is not None
    }


def chosen(args: argparse.Namespace, changes: dict[str, Any]) -> Chosen:
    """What to train, on what and how. Reads the weights, not the data.

    Args:
        changes: the recipe's fields that were given.

    Raises:
        InputError: the options or the weights cannot be used.
        ValueError: there is no such network, or it has no such stage to freeze.
    """
    if args.data is None:
        raise InputError("no data to train on: give --data, a folder of images, cifar10 or drawings")
    refuse_folder_options(args, training=True)
    loaded = _load_weights(args)
    architecture, recipe = _choose_network(args, changes, loaded)
    # Before the data is read, which may take long.
    check_weights(recipe, loaded)
    check_network(architecture, recipe)
    inputs = describe_inputs(
        args.data,
        val_share=0.1 if args.val_share is None else args.val_share,
        fold=fold_of(args),
        broken=args.broken or "refuse",
        layout=layout_of(args),
        loaded=loaded,
    )
    return Chosen(architecture, recipe, inputs, loaded)


def _load_weights(args: argparse.Namespace) -> Loaded | None:
    if args.weights is None:
        return None
    if args.weights in get_args(TorchvisionWeights):
        return load_torchvision(args)
    return load_weight_file(Path(args.weights), args)


def _choose_network(
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
