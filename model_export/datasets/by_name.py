"""Data sets by name: what `--data` understands."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

from model_export.datasets.base import Data
from model_export.datasets.checking import OnBroken
from model_export.datasets.cifar10 import open_cifar10
from model_export.datasets.copies import warn_of_copies
from model_export.datasets.drawings import open_drawings
from model_export.datasets.holding_out import Fold
from model_export.datasets.image_folder import open_folder
from model_export.datasets.in_memory import InMemory
from model_export.datasets.layout import AUTO, Layout
from model_export.datasets.multi_label_folder import is_multi_label, open_multi_label
from model_export.drawings.pictures import CLASSES, SIDES, STYLES, Difficulty
from model_export.drawings.several import LEAST_SIDE, MOST_FIGURES
from model_export.errors import InputError
from model_export.paths import expand_home

NAMED = ("cifar10", "drawings")  # data sets that are not folders
HELD_SIDE = 64  # pixels: pictures up to this size take longer to draw than to train on, and are held in memory
DRAWING_OPTIONS = {
    "train": "pictures to train on",
    "val": "pictures to validate on",
    "side": f"pixels of a square picture, {SIDES[0]} to {SIDES[1]}",
    "difficulty": ", ".join(get_args(Difficulty)),
    "classes": f"some of {'+'.join(CLASSES)}",
    "figures": f"most classes in a picture, 1 to {MOST_FIGURES}: multi-label, from side={LEAST_SIDE} on",
    "seed": "a whole number",
}


def open_data(
    spec: str,
    *,
    val_share: float = 0.1,
    seed: int = 0,
    fold: Fold | None = None,
    broken: OnBroken = "refuse",
    layout: Layout = AUTO,
) -> Data:
    """Opens the data set that a user names.

    Args:
        spec: `DIR`, a folder of images, one folder for each class or with a `labels.csv`; `cifar10` or `cifar10:PATH`;
            `drawings` or, for example,
            `drawings:train=4096,val=1024,side=32,difficulty=hard,classes=circle+ring,figures=3,seed=0`. A folder with
            such a name is given as `./drawings`.
        val_share, broken, layout: for folders only; see `open_folder`. Files that are in two parts are warned of.
            `layout.split` is for CIFAR-10, too; see `open_cifar10`.
        seed, fold: of the images that are kept for validation; drawings come with a validation part of their own.

    Raises:
        InputError: there is no such data set, or it cannot be used.
        Unavailable: CIFAR-10 cannot be downloaded.
    """
    kind, colon, rest = spec.partition(":")
    if kind == "drawings":
        if fold:
            raise InputError("drawings have a validation part of their own: leave --folds and --fold out")
        return _drawings_with(_options(rest) if colon else {})
    if kind == "cifar10":
        if colon and not rest:
            raise InputError(f"{spec} lacks its path: give `cifar10`, or `cifar10:PATH`")
        return open_cifar10(Path(rest) if rest else None, seed=seed, fold=fold, split=layout.split)
    opener = open_multi_label if is_multi_label(Path(spec)) else open_folder
    data = opener(Path(spec), val_share=val_share, seed=seed, fold=fold, broken=broken, layout=layout)
    warn_of_copies(data)
    return data


def absolute(spec: str) -> str:
    """A user's name for a data set as it is understood in any folder."""
    if is_folder(spec):
        return str(expand_home(Path(spec)).absolute())
    kind, _, rest = spec.partition(":")
    return f"{kind}:{expand_home(Path(rest)).absolute()}" if kind == "cifar10" and rest else spec


def is_folder(spec: str) -> bool:
    """Whether a user's name for a data set means a folder of images."""
    return spec.partition(":")[0] not in NAMED


def is_cifar10(spec: str) -> bool:
    """Whether a user's name for a data set means CIFAR-10, wherever it is."""
    return spec.partition(":")[0] == "cifar10"


def _drawings_with(options: dict[str, str]) -> Data:
    if unknown := [key for key in options if key not in DRAWING_OPTIONS]:
        raise InputError(f"drawings have no option {', '.join(map(repr, unknown))}: {_allowed()}")
    difficulty = options.get("difficulty", "standard")
    style = next((style for name, style in STYLES.items() if name == difficulty), None)
    if style is None:
        raise InputError(f"drawings have no difficulty {difficulty!r}: {_allowed()}")
    if "side" in options:
        style = style.square(_number(options, "side", 0, *SIDES))
    figures = _number(options, "figures", 1, 1, MOST_FIGURES) if "figures" in options else None
    if figures is not None and min(style.shorter_side) < LEAST_SIDE:
        raise InputError(f"drawings cannot have side={options['side']} with figures={figures}: {_allowed()}")
    data = open_drawings(
        train=_number(options, "train", 4096, 1),
        val=_number(options, "val", 1024, 1),
        classes=tuple(options["classes"].split("+")) if "classes" in options else CLASSES,
        style=style,
        seed=_number(options, "seed", 0, 0),
        figures=figures,
    )
    if max(style.shorter_side) <= HELD_SIDE:
        return Data(InMemory.of(data.train), InMemory.of(data.val))
    return data


def _options(text: str) -> dict[str, str]:
    """`key=value,key=value` as a dictionary."""
    pairs = [part.partition("=") for part in text.split(",")]
    if wrong := [key for key, equals, value in pairs if not (key and equals and value)]:
        raise InputError(f"drawings: expected key=value, got {wrong[0]!r}: {_allowed()}")
    options = {key: value for key, _, value in pairs}
    if len(options) < len(pairs):
        raise InputError(f"drawings:{text} gives an option twice: leave one out")
    return options


def _number(options: dict[str, str], key: str, default: int, low: int, high: int = 10**9) -> int:
    text = options.get(key, str(default))
    if not text.isdecimal() or not low <= int(text) <= high:
        raise InputError(f"drawings cannot have {key}={text}: {_allowed()}")
    return int(text)


def _allowed() -> str:
    return "allowed are " + "; ".join(f"{key}= ({meaning})" for key, meaning in DRAWING_OPTIONS.items())
