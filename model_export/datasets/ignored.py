"""What is ignored in a folder of images: a tally for the log, and a check that `--ignore` matches something."""

from __future__ import annotations

import os
import shlex
import stat
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from model_export.datasets.display_names import base_names, printable
from model_export.datasets.layout import Layout, as_named, matches
from model_export.datasets.listing import SUFFIXES, class_folders, file_mode
from model_export.errors import InputError, shortlist


class Ignored:
    """Counts what is ignored.

    Attributes:
        kinds: files, by suffix or kind.
        folders: by name.
        links: paths of links that lead out of their class.
    """

    def __init__(self) -> None:
        self.kinds: Counter[str] = Counter()
        self.folders: Counter[str] = Counter()
        self.links: list[str] = []

    def add(self, path: Path) -> None:
        """Counts a file or folder. Hidden folders count only if they hold images: most are no surprise."""
        if not stat.S_ISDIR(file_mode(path)):
            self.kinds[_kind(path)] += 1
        elif not path.name.startswith(".") or _holds_image_names(path):
            self.folders[path.name] += 1

    def summary(self) -> str:
        """The counts in words; empty if nothing was ignored."""
        parts = []
        if self.kinds:
            counts = ", ".join(f"{count} {kind}" for kind, count in self.kinds.most_common())
            parts.append(f"{self.kinds.total()} files that are not images ({counts})")
        if self.folders:
            parts.append(f"the folders {shortlist(map(printable, self.folders))}")
        if self.links:
            parts.append(f"links out of a class into the data set itself ({shortlist(self.links)})")
        return " and ".join(parts)


def check_ignore(root: Path, layout: Layout) -> None:
    """Checks that every pattern of `layout.ignore` matches something: images under a mistyped name would be used.

    Raises:
        InputError: the folder cannot be read, or a pattern matches nothing in it.
    """
    unmatched = list(layout.ignore)
    for name in _names_below(root) if unmatched else ():
        unmatched = [pattern for pattern in unmatched if not matches(name, pattern)]
        if not unmatched:
            return
    if not unmatched:
        return
    present = base_names(class_folders(root, layout)) or "no folders"
    name = as_named(unmatched[0])
    if "," in name:
        remedy = f"repeat the option for every name, as in `{_options(name.split(','))}`"
    elif "/" in name:
        remedy = f"give the name alone, as in `{_options([Path(name).name])}`"
    else:
        remedy = f"give the name or a pattern of what is there ({present})"
    raise InputError(f"--ignore {printable(unmatched[0])} matches no folder and no file in {printable(root)}: {remedy}")


def _options(names: Iterable[str]) -> str:
    return " ".join(f"--ignore {shlex.quote(as_named(name.strip()))}" for name in names)


def _names_below(root: Path) -> Iterator[str]:
    """The names of all folders and files. A folder that is linked twice, or contains the root, is entered once."""
    entered = set(root.resolve().parents)
    for directory, folders, files in os.walk(root, followlinks=True):
        parent = Path(directory)
        entered.add(parent.resolve())
        yield from folders
        yield from files
        folders[:] = [name for name in folders if (parent / name).resolve() not in entered]


def _holds_image_names(folder: Path) -> bool:
    """Whether files with the suffix of an image are anywhere below a folder."""
    return any(name.lower().endswith(SUFFIXES) for _, _, names in os.walk(folder) for name in names)


def _kind(path: Path) -> str:
    if path.name.startswith("."):
        return "hidden"
    if (mode := file_mode(path)) and not stat.S_ISREG(mode):
        return "pipe or device"
    return printable(path.suffix.lower()) or "without extension"
