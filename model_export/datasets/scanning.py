"""Finds the classes of a folder and the images of each. Opens no image that has a usual suffix."""

from __future__ import annotations

import os
import shlex
import unicodedata
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, NoReturn

from model_export.datasets.display_names import CONTROLS, INVISIBLE, base_names, printable
from model_export.datasets.ignored import Ignored
from model_export.datasets.layout import AUTO, Layout
from model_export.datasets.listing import (
    check_link,
    class_folders,
    entries,
    holds_folders_only,
    is_image,
    loose_images,
    overlapping,
    refuse_unreadable,
)
from model_export.datasets.split_names import name_both_parts, names_a_split
from model_export.errors import InputError, shortlist


class Tree(NamedTuple):
    """The images below `root/<class>/`.

    Attributes:
        files: paths with labels, which are indices into `classes`.
        ignored: what was ignored, in words; empty if nothing was.
    """

    root: Path
    classes: tuple[str, ...]
    files: list[tuple[Path, int]]
    ignored: str


def scan(root: Path, layout: Layout = AUTO, whole: Path | None = None) -> Tree:
    """Finds all images below class folders, at any depth.

    Links are followed, except those that lead out of a class into another one or into the other part. Class names are
    in Unicode's composed form (NFC): macOS decomposes them, other systems do not.

    Args:
        whole: the data set, where `root` is one of its parts.

    Raises:
        InputError: there is no such folder; its layout is another; a class has no images, or a name that is unusable or
            looks like another's; or a link is broken.
    """
    if loose := loose_images(root, layout):
        raise InputError(
            f"{printable(root)} holds images directly ({len(loose)}: {base_names(loose)}), and their class is unknown: "
            "move them into one folder per class"
        )
    ignored = Ignored()
    folders = class_folders(root, layout)
    for path in sorted(set(entries(root)).difference(folders)):
        check_link(path, layout)
        ignored.add(path)
    if not folders:
        raise InputError(
            f"{printable(root)} holds no folders: put the images of every class into a folder named after the class"
        )
    by_class = _by_class(folders)
    classes = tuple(sorted(by_class))
    files: list[tuple[Path, int]] = []
    empty = []
    for label, name in enumerate(classes):
        before = len(files)
        for folder in by_class[name]:
            for path in sorted(_files_below(folder, layout, whole or root, ignored)):
                if is_image(path, layout):
                    files.append((path, label))
                else:
                    check_link(path, layout)
                    ignored.add(path)
        if len(files) == before:
            empty.append(printable(by_class[name][0]))
    if empty:
        raise InputError(
            f"there are no images (JPEG, PNG or WebP) in {shortlist(empty)}: put some there, remove the folder, or "
            "leave it out with `--ignore NAME`"
        )
    return Tree(root, classes, files, ignored.summary())


def _by_class(folders: Sequence[Path]) -> dict[str, list[Path]]:
    """The folders of each class. Names in different Unicode forms are one class."""
    by_class: dict[str, list[Path]] = defaultdict(list)
    for folder in folders:
        by_class[_class_name(folder)].append(folder)
    by_visible: dict[str, str] = {}
    for name in by_class:
        if (other := by_visible.setdefault(INVISIBLE.sub("", name), name)) != name:
            raise InputError(
                f"the classes {other!r} and {name!r} in {printable(folders[0].parent)} differ only in blanks or "
                "invisible characters: rename one, or move its images to the other"
            )
    if both := overlapping(folders):
        link = next(folder for folder in both[::-1] if folder.is_symlink() or folder is both[0])
        raise InputError(
            f"the classes {both[0].name} and {both[1].name} in {printable(folders[0].parent)} share a folder, and its "
            f"images would have two classes: remove the link {link.name}, or leave it out with "
            f"`--ignore {shlex.quote(link.name)}`"
        )
    return by_class


def _class_name(folder: Path) -> str:
    fault = ""
    try:
        folder.name.encode()
    except UnicodeEncodeError:
        fault = "is not UTF-8"
    if CONTROLS.search(folder.name):
        fault = "has control characters"
    elif not INVISIBLE.sub("", folder.name):
        fault = "has no visible characters"
    if fault:
        raise InputError(f"the name of the folder {printable(folder)} {fault}, and cannot name a class: rename it")
    return unicodedata.normalize("NFC", folder.name)


def _files_below(folder: Path, layout: Layout, whole: Path, ignored: Ignored) -> Iterator[Path]:
    """All files of a class. A folder that is linked twice, or into itself, is entered once.

    Raises:
        InputError: a folder cannot be read, or is split into parts.
    """
    own, root = folder.resolve(), whole.resolve()
    entered = set()
    for directory, names, files in os.walk(folder, followlinks=True, onerror=refuse_unreadable):
        parent = Path(directory)
        entered.add(parent.resolve())
        subfolders = [parent / name for name in sorted(names)]
        names.clear()
        for path in subfolders:
            target = path.resolve()
            if layout.ignores(path.name):
                ignored.add(path)
            elif _leaves_class(target, own, root):
                ignored.links.append(printable(path.relative_to(folder.parent)))
            elif target not in entered:
                names.append(path.name)
        if layout.split != "none" and name_both_parts(names, one_word=True):
            _refuse_parts_in_class(parent, folder, names, layout)
        yield from (parent / name for name in files)


def _leaves_class(target: Path, own: Path, root: Path) -> bool:
    """Whether a link in the class `own` leads to the rest of the data set, or to a folder around it.

    Links into hidden folders such as `.store` are followed: no class owns those images. Links into folders that the
    user ignores are not: those may be classes.
    """
    if target == own or own in target.parents:
        return False
    if target == root or target in own.parents or target in root.parents:
        return True
    return root in target.parents and not any(map(AUTO.ignores, target.relative_to(root).parts))


def _refuse_parts_in_class(parent: Path, folder: Path, names: Sequence[str], layout: Layout) -> NoReturn:
    parts = [name for name in names if names_a_split(name)]
    if all(holds_folders_only(parent / name, layout) for name in parts):
        remedy = f"give {printable(parent)}, if it is the data set"
    else:
        outermost = " and ".join(printable(folder.parent / name / folder.name) for name in parts)
        remedy = f"put the parts outermost, as {outermost}"
    raise InputError(
        f"{printable(parent)} holds parts of a data set ({shortlist(map(printable, parts))}), which would be merged "
        f"into one class, {folder.name}: {remedy}, or say `--split none` to merge them and split anew"
    )
