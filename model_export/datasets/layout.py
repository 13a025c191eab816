"""What a folder of images means: its parts, its classes, its images, and what is passed over. No image is decoded."""

from __future__ import annotations

import os
import re
import shlex
import stat
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from fnmatch import fnmatchcase
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple, NoReturn

from model_export.errors import InputError, some
from service.formats import BEGINNING, begins_an_image

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")  # are images whatever they hold; others are if they begin like one
KINDS = "JPEG, PNG or WebP"

# Words in the names of folders, in order of preference: "val" is taken before "test".
TRAIN = ("train", "training", "trainset")
VAL = ("val", "validation", "valid", "valset", "dev", "test", "testing", "testset", "eval", "evaluation")

# What systems leave between the pictures, in lower case: Synology, QNAP, NetApp, Windows, macOS, ext4. Whole names and
# not beginnings: a class may be called "#hashtag".
LEFTOVERS = {
    *("@eadir", "@recycle", "@recently-snapshot", "@sharebin", "@sharesnap", "@tmp", "@transcode", "@__thumb"),
    *("#recycle", "#snapshot", "~snapshot", "lost+found", "__pycache__"),
    *("$recycle.bin", "recycler", "system volume information", "$extend", "$winreagent", "config.msi", "msocache"),
    *("thumbs.db", "ehthumbs.db", "desktop.ini"),
    *("__macosx", "network trash folder", "temporary items", "thevolumesettingsfolder", "thefindbycontentfolder"),
}
NUMBERED_LEFTOVERS = re.compile(r"found\.\d{3}|@gmt-[\d.-]+|\$windows\.~\w+")  # chkdsk, Samba, Windows' updates

ARCHIVES = (".zip", ".tar", ".tgz", ".gz", ".bz2", ".xz", ".zst", ".7z", ".rar")
ADDRESS = re.compile(r"(?:^|/)([a-z][a-z\d+]+):/+(.+)", re.IGNORECASE)  # a Path has one slash left of two

# Lines, colours, and the direction of writing: what a terminal obeys.
CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
# Blanks, and what takes no ink: joiners, marks of direction, fillers, variation selectors.
INVISIBLE = re.compile(
    "[\\s\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f\u2800\u3164"
    "\ufe00-\ufe0f\ufeff\uffa0]"
)

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
            or NUMBERED_LEFTOVERS.fullmatch(name.casefold()) is not None
            or any(_matches(name, pattern) for pattern in self.ignore)
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


class PassedOver:
    """What is no image of a class: counted, to be said."""

    def __init__(self) -> None:
        self.kinds: Counter[str] = Counter()  # of files
        self.folders: Counter[str] = Counter()
        self.links: list[str] = []

    def add(self, path: Path) -> None:
        """Counts a file or a folder. A hidden folder is worth a word only where pictures are in it."""
        if not stat.S_ISDIR(_mode(path)):
            self.kinds[_kind(path)] += 1
        elif not path.name.startswith(".") or _holds_pictures(path):
            self.folders[path.name] += 1

    def in_words(self) -> str:
        said = []
        if self.kinds:
            counted = ", ".join(f"{count} {kind}" for kind, count in self.kinds.most_common())
            said.append(f"{self.kinds.total()} files that are no images ({counted})")
        if self.folders:
            said.append(f"the folders {some(map(printable, self.folders))}")
        if self.links:
            said.append(f"links out of a class into the data set itself ({some(self.links)})")
        return " and ".join(said)


def find_parts(root: Path, layout: Layout = AUTO) -> Parts:
    """The parts of a folder: `Training/` and `Testing/`, `seg_train/seg_train/` and `seg_test/seg_test/`, and the like.

    A folder is a part by its name, and if it holds folders and no images. A folder that holds only another is looked
    through.

    Raises:
        InputError: the folder cannot be read, or has not the parts or the names that `layout` names, or several could
            be meant, or its folders look like parts and not like classes.
    """
    check_ignored(root, layout)
    if layout.split not in ("auto", "none"):
        return Parts(root, *_named_parts(root, layout))
    whole = _inner(root, layout, through_parts=layout.split == "none")
    if layout.split == "none":
        return Parts(whole, None, None)
    train, val = (_part(whole, words, layout) for words in (TRAIN, VAL))
    if train and val:
        train, val = _inner(train, layout), _inner(val, layout)
        _check_apart(train, val, layout)
        return Parts(whole, train, val)
    if not (val and only_validates(whole, layout)):
        for path in _entries(whole):
            _check_link(path, layout)
        _check_no_bare_parts(whole, train, layout)
        _check_no_parts_by_structure(whole, layout)
    return Parts(whole, train and _inner(train, layout), val and _inner(val, layout))


def only_validates(whole: Path, layout: Layout = AUTO) -> bool:
    """Whether all folders are parts to validate on, and none is a class or a part to train on."""
    return all(_rank(folder.name, VAL) for folder in class_folders(whole, layout))


def names_a_part(name: str) -> bool:
    """Whether a folder's name is one of a part: of "cats" it is not."""
    return bool(_rank(name, TRAIN) or _rank(name, VAL))


def check_ignored(root: Path, layout: Layout) -> None:
    """Sees to it that whatever shall be passed over is there: a name mistyped would be trained on.

    Raises:
        InputError: the folder cannot be read, or something is nowhere in it.
    """
    unseen = list(layout.ignore)
    names = _names_below(root) if unseen else iter(())
    for name in names:
        unseen = [pattern for pattern in unseen if not _matches(name, pattern)]
        if not unseen:
            break
    if not unseen:
        return
    there = _names(class_folders(root, layout)) or "no folders"
    plain = _plain(unseen[0])
    if "," in plain:
        remedy = f"repeat the option for every name, as in `{_options(plain.split(','))}`"
    elif "/" in plain:
        remedy = f"give the name alone, as in `{_options([Path(plain).name])}`"
    else:
        remedy = f"give the name or a pattern of what is there ({there})"
    raise InputError(f"--ignore {printable(unseen[0])} matches no folder and no file in {printable(root)}: {remedy}")


def scan(root: Path, layout: Layout = AUTO, whole: Path | None = None) -> Tree:
    """Finds the images of a tree, without opening any that has a usual suffix.

    Links are followed, but for those that lead out of a class into another, or to the other part.
    Names of classes are in Unicode's composed form (NFC): macOS decomposes them, others do not.

    Args:
        whole: the data set of which the tree is a part, if it is.

    Raises:
        InputError: there is no such folder, it has another layout, a class has no images or no name that can be told
            from another, or a link leads nowhere.
    """
    entries = _entries(root)
    if loose := loose_images(root, layout):
        raise InputError(
            f"{printable(root)} holds images directly ({len(loose)}: {_names(loose)}), and nothing tells their class: "
            "move them into one folder per class"
        )
    passed = PassedOver()
    folders = class_folders(root, layout)
    for path in sorted(set(entries).difference(folders)):
        _check_link(path, layout)
        passed.add(path)
    if not folders:
        raise InputError(
            f"{printable(root)} holds no folders: put the images of every class into a folder named after the class"
        )
    by_class = _by_class(folders)
    files: list[tuple[Path, int]] = []
    empty = []
    classes = tuple(sorted(by_class))
    for label, name in enumerate(classes):
        before = len(files)
        for folder in by_class[name]:
            for path in sorted(_files_below(folder, layout, whole or root, passed)):
                if is_image(path, layout):
                    files.append((path, label))
                else:
                    _check_link(path, layout)
                    passed.add(path)
        if len(files) == before:
            empty.append(str(by_class[name][0]))
    if empty:
        raise InputError(
            f"there are no images ({KINDS}) in {some(map(printable, empty))}: put some there, remove the folder, or "
            "leave it out with `--ignore NAME`"
        )
    return Tree(root, classes, files, passed.in_words())


def loose_images(root: Path, layout: Layout = AUTO) -> list[Path]:
    """The images that lie in a folder itself, by name."""
    return sorted(path for path in _entries(root) if is_image(path, layout))


def class_folders(root: Path, layout: Layout = AUTO) -> list[Path]:
    """The folders in a folder that are not passed over, by name."""
    return sorted(path for path in _entries(root) if not layout.passes_over(path.name) and _is_folder(path))


def is_image(path: Path, layout: Layout = AUTO) -> bool:
    """Whether a file is an image: by its suffix, or with another one (`.jfif`, none) by its first bytes.

    A link to nowhere is one by its suffix: that it is broken is found when it is opened.
    """
    if layout.passes_over(path.name):
        return False
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # opening a pipe would wait for ever
            return False
        if path.suffix.lower() in SUFFIXES:
            return True
        with path.open("rb") as file:
            head = file.read(BEGINNING)
    except OSError:
        return path.suffix.lower() in SUFFIXES
    return begins_an_image(head)


def differ_in_case(classes: Iterable[str]) -> list[str]:
    """The names that are another's but for capitals."""
    by_name: dict[str, list[str]] = defaultdict(list)
    for name in classes:
        by_name[name.casefold()].append(name)
    return [name for alike in by_name.values() if len(alike) > 1 for name in alike]


def printable(name: str | Path) -> str:
    """A name for people, where its bytes are not UTF-8 or a terminal would obey them."""
    text = os.fsencode(name).decode(errors="backslashreplace")
    return CONTROLS.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def exact(name: str) -> str:
    """A name for people, in quotes where it has blanks or other characters that are not seen."""
    seen = name.isprintable() and name == " ".join(name.split())
    return name if seen else repr(name)


def expanded(path: Path) -> Path:
    """A path without the `~` that a shell leaves where it is quoted."""
    try:
        return path.expanduser()
    except RuntimeError:  # of nobody who is known: it does not exist, as will be said
        return path


@lru_cache
def _plain(name: str) -> str:
    """A name as its folder has it: completing it adds a `/`, and some begin with `./`."""
    return unicodedata.normalize("NFC", str(Path(name)))


def _matches(name: str, pattern: str) -> bool:
    name, pattern = unicodedata.normalize("NFC", name), _plain(pattern)
    return name == pattern or fnmatchcase(name, pattern)


def _options(names: Iterable[str]) -> str:
    return " ".join(f"--ignore {shlex.quote(_plain(name.strip()))}" for name in names)


def _names(paths: Iterable[Path]) -> str:
    return some([printable(path.name) for path in paths])


def _entries(root: Path) -> list[Path]:
    try:
        return list(root.iterdir())
    except FileNotFoundError:
        if address := ADDRESS.search(str(root)):
            raise InputError(
                f"{address[1]}://{printable(address[2])} is an address: download it, unpack it, and give the folder"
            ) from None
        raise InputError(
            f"{printable(root)} does not exist: give a folder that holds one folder of images per class"
        ) from None
    except NotADirectoryError:
        if root.suffix.lower() in ARCHIVES:
            raise InputError(f"{printable(root)} is an archive: unpack it first, and give the folder") from None
        raise InputError(
            f"{printable(root)} is not a folder: give one that holds one folder of images per class"
        ) from None
    except OSError as error:
        _refuse_unreadable(error)


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError as error:
        _refuse_unreadable(error)


def _mode(path: Path) -> int:
    """What a path leads to; 0: nothing, or it may not be known."""
    try:
        return path.stat().st_mode
    except OSError:
        return 0


def _refuse_unreadable(error: OSError) -> NoReturn:
    path = printable(os.fsdecode(error.filename))
    raise InputError(f"{path} cannot be read ({error.strerror}): check its owner and permissions") from error


def _inner(root: Path, layout: Layout, *, through_parts: bool = True) -> Path:
    """The folder itself; where it holds nothing but one other, which is no class, that one."""
    for _ in range(LOOKED_THROUGH):
        if _holds_images(root, layout):
            break
        below = class_folders(root, layout)
        if len(below) != 1 or not _holds_folders_only(below[0], layout):
            break
        if not through_parts and names_a_part(below[0].name):
            break
        root = below[0]
    return root


def _holds_images(folder: Path, layout: Layout) -> bool:
    """Whether an image lies in the folder itself. Most class folders begin with one: they are not read to the end."""
    return any(is_image(path, layout) for path in _entries(folder))


def _holds_folders_only(folder: Path, layout: Layout) -> bool:
    return not _holds_images(folder, layout) and bool(class_folders(folder, layout))


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
            f"{printable(root)} has several folders that could be meant by {words[0]} ({_names(found)}): "
            "name the two parts with `--split TRAIN,VAL`, or say `--split none` if they are classes"
        )
    return found[0]


def _rank(name: str, words: tuple[str, ...]) -> tuple[int, int] | None:
    """How well the name of a folder says what it is: of "seg_train" in TRAIN (1, 2), the words and which; None: not."""
    named = [word.casefold() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+", name)]
    matches = [words.index(word) for word in named if word in words]
    return (min(matches) + 1, len(named)) if matches else None


def _is_plain(name: str, words: tuple[str, ...]) -> bool:
    """Whether a name is one of the words, and has no other."""
    rank = _rank(name, words)
    return rank is not None and rank[1] == 1


def _are_parts(names: Sequence[str], *, plain: bool) -> bool:
    """Whether one is called as the part to train on is, and another as the one to validate on."""
    told = _is_plain if plain else _rank
    return all(any(told(name, words) for name in names) for words in (TRAIN, VAL))


def _check_no_bare_parts(root: Path, train: Path | None, layout: Layout) -> None:
    """Raises InputError where folders are called as parts are, and images lie in one without class folders.

    Among other folders only plain names are taken for parts: "freight_train" and "test_tube" may be classes.
    """
    folders = [folder.name for folder in class_folders(root, layout)]
    plain = [name for name in folders if _is_plain(name, TRAIN + VAL)]
    if all(map(names_a_part, folders)) and _are_parts(folders, plain=False):
        named = folders
    elif plain == folders or _are_parts(folders, plain=True):
        named = plain
    else:
        return
    bare = [printable(name) for name in named if _holds_images(root / name, layout)]
    if bare:
        alone = f"give {printable(train)}, which is then split by itself; or " if train else ""
        raise InputError(
            f"{printable(root)} holds {some(map(printable, named))}, which are names of parts of a data set, and "
            f"images without class folders in {some(bare)}: put one folder per class into each part; or {alone}say "
            "`--split none` if they are classes"
        )


def _check_no_parts_by_structure(root: Path, layout: Layout) -> None:
    """Raises InputError where folders are parts whatever they are called: most hold the same two folders or more.

    Parts of classes ("cat/train" and "dog/train") are left to `scan`, which finds them at any depth.
    """
    folders = class_folders(root, layout)
    inside = {folder: names for folder in folders if (names := _folders_in(folder, layout))}
    groups = ([other for other in inside if _nearly_same(inside[one], inside[other])] for one in inside)
    parts = max(groups, key=len, default=[])
    if len(parts) < 2 or 2 * len(parts) <= len(folders):
        return
    shared = sorted(set.intersection(*(inside[part] for part in parts)))
    if _are_parts(shared, plain=True):
        return
    ordered = sorted(parts, key=lambda part: (not _rank(part.name, TRAIN), bool(_rank(part.name, VAL)), -_size(part)))
    split = shlex.quote(",".join(printable(part.name) for part in ordered[:2]))
    raise InputError(
        f"{printable(root)} looks like parts of a data set and not like classes, since {_names(parts)} hold folders of "
        f"the same names ({some(map(printable, shared))}): name the part to train on and the one to validate on, as in "
        f"`--split {split}`; or give one of them; or say `--split none` if they are classes"
    )


def _folders_in(folder: Path, layout: Layout) -> set[str]:
    """The names of the folders in a folder that holds no images, as it is or packed into others."""
    inner = _inner(folder, layout)
    return set() if _holds_images(inner, layout) else {path.name for path in class_folders(inner, layout)}


def _nearly_same(names: set[str], others: set[str]) -> bool:
    """Whether both have two names or more in common, and at least half of all."""
    shared = len(names & others)
    return shared >= 2 and 2 * shared >= len(names | others)


def _size(folder: Path) -> int:
    """Files below, without those behind links: a guess which of two parts is the one to train on."""
    return sum(len(names) for _, _, names in os.walk(folder))


def _named_parts(root: Path, layout: Layout) -> tuple[Path, Path]:
    names = [_plain(name.strip()) if name.strip() else "" for name in layout.split.split(",")]
    if len(names) != 2 or not all(names) or names[0] == names[1] or any(Path(name).is_absolute() for name in names):
        raise InputError(
            f"--split {printable(layout.split)} names no two folders in {printable(root)}: give auto, none, or two "
            "names: TRAIN,VAL"
        )
    if missing := [name for name in names if not (root / name).is_dir()]:
        there = _names(class_folders(root, layout)) or "no folders"
        raise InputError(
            f"{printable(root)} has no folder {printable(missing[0])}, which --split names: it has {there}"
        )
    train, val = (_inner(root / name, layout) for name in names)
    _check_apart(train, val, layout)
    return train, val


def _check_apart(train: Path, val: Path, layout: Layout) -> None:
    """Raises InputError where a folder is in both parts: what was learned would be validated on."""
    both = _overlapping([train, val]) or _overlapping([*class_folders(train, layout), *class_folders(val, layout)])
    if both and (both[0] in (train, val) or both[0].parent != both[1].parent):  # else two classes, as `scan` will say
        raise InputError(
            f"{printable(both[0])} and {printable(both[1])} are the same folder, or one lies in the other, and images "
            "to validate on would be trained on: remove the link, or name two parts that share none with "
            "`--split TRAIN,VAL`"
        )


def _overlapping(folders: Sequence[Path]) -> tuple[Path, Path] | None:
    """Two of them of which, links followed, one is the other or lies in it."""
    by_target: dict[Path, Path] = {}
    for folder in folders:
        if (other := by_target.setdefault(folder.resolve(), folder)) is not folder:
            return other, folder
    for target, folder in by_target.items():
        for parent in target.parents:
            if parent in by_target:
                return by_target[parent], folder
    return None


def _check_link(path: Path, layout: Layout) -> None:
    """Raises InputError where a link leads nowhere: a class, or some of its images, would be missing."""
    if path.is_symlink() and not _mode(path) and not layout.passes_over(path.name):
        raise InputError(
            f"{printable(path)} is a link to {printable(path.readlink())}, which does not exist or may not be read: "
            f"mend or remove it, or leave it out with `--ignore {shlex.quote(printable(path.name))}`"
        )


def _by_class(folders: Sequence[Path]) -> dict[str, list[Path]]:
    """The folders by the names of their classes, which can be told from each other."""
    by_class: dict[str, list[Path]] = defaultdict(list)
    for folder in folders:
        by_class[_class_name(folder)].append(folder)
    by_look: dict[str, str] = {}
    for name in by_class:
        if (other := by_look.setdefault(INVISIBLE.sub("", name), name)) != name:
            raise InputError(
                f"the classes {other!r} and {name!r} in {printable(folders[0].parent)} differ only in blanks or "
                "invisible characters: rename one, or move its images to the other"
            )
    if two := _overlapping(folders):
        link = next(folder for folder in two[::-1] if folder.is_symlink() or folder is two[0])
        raise InputError(
            f"the classes {two[0].name} and {two[1].name} in {printable(folders[0].parent)} share a folder, and its "
            f"images would have two classes: remove the link {link.name}, or leave it out with "
            f"`--ignore {shlex.quote(link.name)}`"
        )
    return by_class


def _class_name(folder: Path) -> str:
    try:
        folder.name.encode()
        fault = ""
    except UnicodeEncodeError:
        fault = "is not UTF-8"
    if CONTROLS.search(folder.name):
        fault = "has control characters"
    elif not INVISIBLE.sub("", folder.name):
        fault = "has no visible characters"
    if fault:
        raise InputError(f"the name of the folder {printable(folder)} {fault}, and cannot name a class: rename it")
    return unicodedata.normalize("NFC", folder.name)


def _names_below(root: Path) -> Iterator[str]:
    """The names of all folders and files. A folder that is linked twice, or holds the root, is entered once."""
    entered = set(root.resolve().parents)
    for directory, folders, names in os.walk(root, followlinks=True):
        here = Path(directory)
        entered.add(here.resolve())
        yield from folders
        yield from names
        folders[:] = [name for name in folders if (here / name).resolve() not in entered]


def _files_below(folder: Path, layout: Layout, whole: Path, passed: PassedOver) -> Iterator[Path]:
    """Every file of a class; a folder that is linked twice, or into itself, is entered once.

    Raises:
        InputError: a folder cannot be read, or is split into parts.
    """
    own, root = folder.resolve(), whole.resolve()
    entered = set()
    for directory, folders, names in os.walk(folder, followlinks=True, onerror=_refuse_unreadable):
        here = Path(directory)
        entered.add(here.resolve())
        below = [here / name for name in sorted(folders)]
        folders.clear()
        for path in below:
            target = path.resolve()
            if layout.passes_over(path.name):
                passed.add(path)
            elif _leads_astray(target, own, root):
                passed.links.append(printable(path.relative_to(folder.parent)))
            elif target not in entered:
                folders.append(path.name)
        if layout.split != "none" and _are_parts(folders, plain=True):
            _refuse_parts_of_a_class(here, folder, folders, layout)
        yield from (here / name for name in names)


def _leads_astray(target: Path, own: Path, root: Path) -> bool:
    """Whether a folder, reached from the class `own` by a link, holds it or is in the data set. What is in a hidden
    folder such as `.store` is no other class's; what a user ignores may be."""
    if target == own or own in target.parents:
        return False
    if target == root or target in own.parents or target in root.parents:
        return True
    return root in target.parents and not any(map(AUTO.passes_over, target.relative_to(root).parts))


def _refuse_parts_of_a_class(here: Path, folder: Path, names: list[str], layout: Layout) -> NoReturn:
    parts = [name for name in names if names_a_part(name)]
    if all(_holds_folders_only(here / name, layout) for name in parts):
        remedy = f"give {printable(here)}, if it is the data set"
    else:
        outermost = " and ".join(printable(folder.parent / name / folder.name) for name in parts)
        remedy = f"put the parts outermost, as {outermost}"
    raise InputError(
        f"{printable(here)} holds parts of a data set ({some(map(printable, parts))}), which would be merged into one "
        f"class, {folder.name}: {remedy}, or say `--split none` to merge them and split anew"
    )


def _holds_pictures(folder: Path) -> bool:
    """Whether a folder that is passed over holds files that are called as images are."""
    return any(name.lower().endswith(SUFFIXES) for _, _, names in os.walk(folder) for name in names)


def _kind(path: Path) -> str:
    if path.name.startswith("."):
        return "hidden"
    if (mode := _mode(path)) and not stat.S_ISREG(mode):
        return "pipe or device"
    return printable(path.suffix.lower()) or "without extension"
