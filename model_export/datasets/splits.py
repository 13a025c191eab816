"""Finds the training, validation and test parts of a folder of images. Opens no image that has a usual suffix."""

from __future__ import annotations

import itertools
import logging
import os
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from model_export.datasets.display_names import base_names, printable
from model_export.datasets.ignored import check_ignore
from model_export.datasets.layout import AUTO, Layout, as_named
from model_export.datasets.listing import (
    check_link,
    class_folders,
    entries,
    holds_folders_only,
    holds_images,
    overlapping,
)
from model_export.datasets.split_names import (
    HELD_OUT,
    TEST,
    TRAIN,
    VAL,
    is_one_word,
    name_both_parts,
    names_a_split,
    rank,
)
from model_export.errors import InputError, shortlist

logger = logging.getLogger(__name__)

MAX_WRAPPERS = 3  # folders around the data set, as archives have when they are unpacked


class Splits(NamedTuple):
    """Where the parts of a data set are. All None: `whole` holds the class folders."""

    whole: Path
    train: Path | None
    val: Path | None
    test: Path | None = None

    @property
    def held_out(self) -> Path | None:
        """The part to evaluate on."""
        return self.test or self.val


def find_splits(root: Path, layout: Layout = AUTO) -> Splits:
    """The parts of a folder: `Training/` and `Testing/`, `seg_train/seg_train/` and `seg_test/seg_test/`, and the like.

    A folder is a part if its name says so, and if it holds folders and no images. A folder that holds only one other
    folder stands for that one.

    Raises:
        InputError: the folder cannot be read; it lacks the parts or names that the layout names; several folders could
            be the same part; or its folders look like parts, not like classes.
    """
    check_ignore(root, layout)
    if layout.split not in ("auto", "none"):
        return Splits(root, *_named_parts(root, layout))
    whole = _unwrapped(root, layout, through_parts=layout.split == "none")
    if layout.split == "none":
        return Splits(whole, None, None)
    train, val, test = (part and _unwrapped(part, layout) for part in _parts(whole, layout))
    if train and val and test and not _share_classes(train, test, layout):
        logger.warning("%s: ignored, because no class of %s is in it", printable(test), printable(train))
        test = None
    if train and (val or test):
        _check_apart([part for part in (train, val, test) if part], layout)
        return Splits(whole, train, val, test)
    if not ((val or test) and holds_only_held_out(whole, layout)):
        for path in entries(whole):
            check_link(path, layout)
        _check_parts_have_classes(whole, train, layout)
        _check_not_parts_by_structure(whole, layout)
    return Splits(whole, train, val, test)


def holds_only_held_out(whole: Path, layout: Layout = AUTO) -> bool:
    """Whether the names of all folders are for validation or test parts, none for a class or a training part."""
    return all(rank(folder.name, HELD_OUT) for folder in class_folders(whole, layout))


def _parts(whole: Path, layout: Layout) -> tuple[Path | None, ...]:
    """The folders for training, validation and test."""
    return tuple(_part(whole, words, layout) for words in (TRAIN, VAL, TEST))


def _share_classes(train: Path, test: Path, layout: Layout) -> bool:
    """Whether a class is in both parts. Test pictures without labels lie in one folder with another name."""
    names = [{folder.name for folder in class_folders(part, layout)} for part in (train, test)]
    return bool(names[0] & names[1])


def _unwrapped(root: Path, layout: Layout, *, through_parts: bool = True) -> Path:
    """The folder itself; or, where it holds only one other folder that is not a class, that one."""
    for _ in range(MAX_WRAPPERS):
        if holds_images(root, layout):
            break
        below = class_folders(root, layout)
        if len(below) != 1 or not holds_folders_only(below[0], layout):
            break
        if not through_parts and names_a_split(below[0].name):
            break
        root = below[0]
    return root


def _part(root: Path, words: tuple[str, ...], layout: Layout) -> Path | None:
    """The folder that has the best name for a part, and holds folders only."""
    ranked = [
        (ranking, folder)
        for folder in class_folders(root, layout)
        if (ranking := rank(folder.name, words)) and holds_folders_only(folder, layout)
    ]
    if not ranked:
        return None
    best = min(ranking for ranking, _ in ranked)
    folders = [folder for ranking, folder in ranked if ranking == best]
    if len(folders) > 1:
        raise InputError(
            f"{printable(root)} has several folders that could be the part {words[0]} ({base_names(folders)}): "
            "name the parts with `--split TRAIN,VAL` or `--split TRAIN,VAL,TEST`, or say `--split none` if they are "
            "classes"
        )
    return folders[0]


def _named_parts(root: Path, layout: Layout) -> tuple[Path | None, ...]:
    """The parts that `--split TRAIN,VAL`, `TRAIN,VAL,TEST` or `TRAIN,,TEST` names."""
    names = [as_named(name.strip()) if name.strip() else "" for name in layout.split.split(",")]
    given = [name for name in names if name]
    if (
        len(names) not in (2, 3)
        or not (names[0] and names[-1])
        or len(set(given)) < len(given)
        or any(Path(name).is_absolute() for name in given)
    ):
        raise InputError(
            f"--split {printable(layout.split)} does not name parts of {printable(root)}: give auto, none, or names of "
            "folders: TRAIN,VAL or TRAIN,VAL,TEST; or TRAIN,,TEST, to have a part of TRAIN kept for validation"
        )
    if missing := [name for name in given if not (root / name).is_dir()]:
        present = base_names(class_folders(root, layout)) or "no folders"
        raise InputError(
            f"{printable(root)} has no folder {printable(missing[0])}, which --split names: it has {present}"
        )
    if len(names) == 2 and rank(names[1], TEST):
        logger.warning(
            "%s: the best weights will be chosen by %s, so its accuracy will be a little too good: to measure on it "
            "once, at the end, say `--split %s,,%s`",
            printable(root),
            *map(shlex.quote, (names[1], *names)),
        )
    parts = tuple(_unwrapped(root / name, layout) if name else None for name in names)
    _check_apart([part for part in parts if part], layout)
    return parts


def _check_apart(parts: Sequence[Path], layout: Layout) -> None:
    """Raises InputError if a folder is in two parts: the network would be validated on images it has learned."""
    for one, other in itertools.combinations(parts, 2):
        both = overlapping([one, other]) or overlapping([*class_folders(one, layout), *class_folders(other, layout)])
        # Two classes of one part that overlap are left to `scan`, which reports them.
        if both and (both[0] in (one, other) or both[0].parent != both[1].parent):
            used = (
                "validation images would be trained on" if one is parts[0] else "test images would choose the weights"
            )
            raise InputError(
                f"{printable(both[0])} and {printable(both[1])} are the same folder, or one contains the other, and "
                f"{used}: remove the link, or name separate parts with `--split TRAIN,VAL`"
            )


def _check_parts_have_classes(root: Path, train: Path | None, layout: Layout) -> None:
    """Raises InputError if folders are named like parts, and one has images directly in it.

    Among other folders only one-word names count: "freight_train" and "test_tube" may be classes.
    """
    folders = [folder.name for folder in class_folders(root, layout)]
    one_word = [name for name in folders if is_one_word(name, TRAIN + HELD_OUT)]
    if all(map(names_a_split, folders)) and name_both_parts(folders, one_word=False):
        parts = folders
    elif one_word == folders or name_both_parts(folders, one_word=True):
        parts = one_word
    else:
        return
    without_classes = [printable(name) for name in parts if holds_images(root / name, layout)]
    if without_classes:
        alone = f"give {printable(train)}, to have it split; or " if train else ""
        raise InputError(
            f"{printable(root)} holds {shortlist(map(printable, parts))}, named like parts of a data set, and images "
            f"without class folders in {shortlist(without_classes)}: put one folder per class into each part; or "
            f"{alone}say `--split none` if they are classes"
        )


def _check_not_parts_by_structure(root: Path, layout: Layout) -> None:
    """Raises InputError if folders are parts whatever their names: most hold two folders or more of the same names.

    Splits inside classes ("cat/train" and "dog/train") are left to `scan`, which finds them at any depth.
    """
    folders = class_folders(root, layout)
    inside = {folder: names for folder in folders if (names := _folders_in(folder, layout))}
    groups = ([other for other in inside if _nearly_same(inside[folder], inside[other])] for folder in inside)
    parts = max(groups, key=len, default=[])
    if len(parts) < 2 or 2 * len(parts) <= len(folders):
        return
    shared = sorted(set.intersection(*(inside[part] for part in parts)))
    if name_both_parts(shared, one_word=True):
        return
    ordered = sorted(
        parts, key=lambda part: (not rank(part.name, TRAIN), bool(rank(part.name, HELD_OUT)), -_count_files(part))
    )
    split = shlex.quote(",".join(printable(part.name) for part in ordered[:2]))
    named = base_names(parts)
    raise InputError(
        f"{printable(root)} may hold classes or parts of a data set: {named} hold folders of the same names "
        f"({shortlist(map(printable, shared))}), as parts do. If {named} are classes, say `--split none`: every "
        "picture below a class folder is of that class. If they are parts, name those to train and to validate on, as "
        f"in `--split {split}`; or give one of them"
    )


def _folders_in(folder: Path, layout: Layout) -> set[str]:
    """The names of the folders in a folder, wrapped in others or not; none if it holds images."""
    inner = _unwrapped(folder, layout)
    return set() if holds_images(inner, layout) else {path.name for path in class_folders(inner, layout)}


def _nearly_same(names: set[str], others: set[str]) -> bool:
    """Whether both share at least two names, and at least half of all names."""
    shared = len(names & others)
    return shared >= 2 and 2 * shared >= len(names | others)


def _count_files(folder: Path) -> int:
    """Files below a folder, links not followed: the larger of two parts is probably the one to train on."""
    return sum(len(names) for _, _, names in os.walk(folder))
