"""What a folder of images means: its parts, its classes, its images, and what is passed over. No image is decoded."""

from __future__ import annotations

import os
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from typing import NamedTuple

from model_export.errors import InputError, some
from service.formats import BEGINNING, begins_an_image

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")  # are images whatever they hold; others are if they begin like one
KINDS = "JPEG, PNG or WebP"

# Words in the names of folders, in order of preference: "val" is taken before "test".
TRAIN = ("train", "training", "trainset")
VAL = ("val", "validation", "valid", "valset", "dev", "test", "testing", "testset", "eval", "evaluation")

# What systems leave between the pictures (Synology, QNAP, Windows, macOS, ext4), in lower case.
LEFTOVERS = {
    *("@eadir", "@recycle", "#recycle", "#snapshot", "@tmp", "$recycle.bin", "recycler", "system volume information"),
    *("thumbs.db", "desktop.ini", "__macosx", "lost+found", "__pycache__"),
}

LOOKED_THROUGH = 3  # folders within each other, which archives are packed with


class Layout(NamedTuple):
    """What a user says of a folder where the guess is wrong.

    Attributes:
        split: "auto": folders called train and val, or nearly so, are the two parts; "none": every folder is a class;
            else the names of the two, such as "Training,Testing".
        ignore: names or patterns (`*_old`) of folders and files that are passed over.
    """

    split: str = "auto"
    ignore: tuple[str, ...] = ()

    def passes_over(self, name: str) -> bool:
        return (
            name.startswith(".")
            or name.casefold() in LEFTOVERS
            or any(fnmatchcase(name, pattern) for pattern in self.ignore)
        )


AUTO = Layout()


class Tree(NamedTuple):
    """The images below `root/<class>/`."""

    root: Path
    classes: tuple[str, ...]
    files: list[tuple[Path, int]]  # with labels
    passed_over: str  # in words; empty: nothing


class Parts(NamedTuple):
    """Where the two parts of a data set are; both None: it is one tree, at `whole`."""

    whole: Path
    train: Path | None
    val: Path | None


def find_parts(root: Path, layout: Layout = AUTO) -> Parts:
    """The parts of a folder: `Training/` and `Testing/`, `seg_train/seg_train/` and `seg_test/seg_test/`, and the like.

    A folder is a part by its name, and if it holds folders and no images. A folder that holds only another is looked
    through.

    Raises:
        InputError: the folder cannot be read, or has not the parts that `layout` names, or several could be meant.
    """
    if layout.split not in ("auto", "none"):
        return Parts(root, *_named_parts(root, layout))
    whole = _inner(root, layout, through_parts=layout.split == "none")
    if layout.split == "none":
        return Parts(whole, None, None)
    train, val = (_part(whole, words, layout) for words in (TRAIN, VAL))
    return Parts(whole, train and _inner(train, layout), val and _inner(val, layout))


def only_validates(whole: Path, layout: Layout = AUTO) -> bool:
    """Whether all folders are parts to validate on, and none is a class or a part to train on."""
    return all(_rank(folder.name, VAL) for folder in class_folders(whole, layout))


def names_a_part(name: str) -> bool:
    """Whether a folder's name is one of a part: of "cats" it is not."""
    return bool(_rank(name, TRAIN) or _rank(name, VAL))


def scan(root: Path, layout: Layout = AUTO) -> Tree:
    """Finds the images of a tree, without opening any that has a usual suffix; links are followed.

    Names of classes are in Unicode's composed form (NFC): macOS decomposes them, others do not.

    Raises:
        InputError: there is no such folder, it has another layout, or a class has no images or no readable name.
    """
    entries = _entries(root)
    if loose := loose_images(root, layout):
        raise InputError(
            f"{root} holds images directly ({len(loose)}: {some([printable(path.name) for path in loose])}), and "
            "nothing tells their class: move them into one folder per class"
        )
    folders = class_folders(root, layout)
    if not folders:
        raise InputError(f"{root} holds no folders: put the images of every class into a folder named after the class")

    by_class: dict[str, list[Path]] = defaultdict(list)
    for folder in folders:
        by_class[_class_name(folder)].append(folder)
    kinds = Counter(_kind(path) for path in entries if not path.is_dir())
    left = Counter(path.name for path in entries if path.is_dir() and path not in folders and path.name[0] != ".")
    files: list[tuple[Path, int]] = []
    empty = []
    classes = tuple(sorted(by_class))
    for label, name in enumerate(classes):
        before = len(files)
        for folder in by_class[name]:
            for path in sorted(_files_below(folder, layout, left)):
                if is_image(path, layout):
                    files.append((path, label))
                else:
                    kinds[_kind(path)] += 1
        if len(files) == before:
            empty.append(str(by_class[name][0]))
    if empty:
        raise InputError(
            f"there are no images ({KINDS}) in {some(empty)}: put some there, remove the folder, or leave it out with "
            "`--ignore NAME`"
        )
    return Tree(root, classes, files, _in_words(kinds, left))


def loose_images(root: Path, layout: Layout = AUTO) -> list[Path]:
    """The images that lie in a folder itself, by name."""
    return sorted(path for path in _entries(root) if not path.is_dir() and is_image(path, layout))


def class_folders(root: Path, layout: Layout = AUTO) -> list[Path]:
    """The folders in a folder that are not passed over, by name."""
    return sorted(path for path in _entries(root) if path.is_dir() and not layout.passes_over(path.name))


def is_image(path: Path, layout: Layout = AUTO) -> bool:
    """Whether a file is an image: by its suffix, or with another one (`.jfif`, none) by its first bytes."""
    if layout.passes_over(path.name):
        return False
    if path.suffix.lower() in SUFFIXES:
        return True
    try:
        if not path.is_file():
            return False
        with path.open("rb") as file:
            head = file.read(BEGINNING)
    except OSError:
        return False
    return begins_an_image(head)


def printable(name: str | Path) -> str:
    """A name for people, where its bytes are not UTF-8."""
    return os.fsencode(name).decode(errors="backslashreplace")


def _entries(root: Path) -> list[Path]:
    try:
        return list(root.iterdir())
    except FileNotFoundError:
        raise InputError(f"{root} does not exist: give a folder that holds one folder of images per class") from None
    except NotADirectoryError:
        raise InputError(f"{root} is not a folder: give one that holds one folder of images per class") from None
    except OSError as error:
        raise InputError(f"{root} cannot be read ({error.strerror}): check its owner and permissions") from error


def _inner(root: Path, layout: Layout, *, through_parts: bool = True) -> Path:
    """The folder itself; where it holds nothing but one other, which is no class, that one."""
    for _ in range(LOOKED_THROUGH):
        below = class_folders(root, layout)
        if len(below) != 1 or loose_images(root, layout) or not _holds_folders_only(below[0], layout):
            break
        if not through_parts and names_a_part(below[0].name):
            break
        root = below[0]
    return root


def _holds_folders_only(folder: Path, layout: Layout) -> bool:
    return bool(class_folders(folder, layout)) and not loose_images(folder, layout)


def _part(root: Path, words: tuple[str, ...], layout: Layout) -> Path | None:
    """The folder that is called so and looks like a part."""
    ranked = [
        (rank, folder)
        for folder in class_folders(root, layout)
        if (rank := _rank(folder.name, words)) and _holds_folders_only(folder, layout)
    ]
    if not ranked:
        return None
    best = min(rank for rank, _ in ranked)
    found = [folder for rank, folder in ranked if rank == best]
    if len(found) > 1:
        raise InputError(
            f"{root} has several folders that could be meant by {words[0]} ({some([path.name for path in found])}): "
            "name the two parts with `--split TRAIN,VAL`, or say `--split none` if they are classes"
        )
    return found[0]


def _rank(name: str, words: tuple[str, ...]) -> tuple[int, int] | None:
    """How well the name of a folder says what it is: of "seg_train" in TRAIN (1, 2), the words and which; None: not."""
    named = [word.casefold() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+", name)]
    matches = [words.index(word) for word in named if word in words]
    return (min(matches) + 1, len(named)) if matches else None


def _named_parts(root: Path, layout: Layout) -> tuple[Path, Path]:
    names = layout.split.split(",")
    if len(names) != 2 or not all(names) or names[0] == names[1]:
        raise InputError(f"--split {layout.split} names no two folders: give auto, none, or two names: TRAIN,VAL")
    if missing := [name for name in names if not (root / name).is_dir()]:
        there = some([folder.name for folder in class_folders(root, layout)] or ["no folders"])
        raise InputError(f"{root} has no folder {missing[0]}, which --split names: it has {there}")
    train, val = (_inner(root / name, layout) for name in names)
    return train, val


def _class_name(folder: Path) -> str:
    try:
        folder.name.encode()
    except UnicodeEncodeError:
        raise InputError(
            f"the name of the folder {printable(folder)} is not UTF-8, and cannot name a class: rename it"
        ) from None
    return unicodedata.normalize("NFC", folder.name)


def _files_below(folder: Path, layout: Layout, left: Counter[str]) -> Iterator[Path]:
    """Every file; a folder that is linked twice, or into itself, is entered once. Counts the folders it passes over."""
    entered = set()
    for directory, folders, names in os.walk(folder, followlinks=True):
        here = Path(directory)
        entered.add(here.resolve())
        left.update(name for name in folders if layout.passes_over(name) and name[0] != ".")
        folders[:] = [
            name for name in sorted(folders) if not layout.passes_over(name) and (here / name).resolve() not in entered
        ]
        yield from (here / name for name in names)


def _kind(path: Path) -> str:
    return "hidden" if path.name.startswith(".") else printable(path.suffix.lower()) or "without extension"


def _in_words(kinds: Counter[str], left: Counter[str]) -> str:
    """What was passed over: kinds of files, and folders by name."""
    said = []
    if kinds:
        counted = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common())
        said.append(f"{kinds.total()} files that are no images ({counted})")
    if left:
        said.append(f"the folders {some([printable(name) for name in left])}")
    return " and ".join(said)
