"""Folders of images with any number of classes each: the images, and a `labels.csv` beside them.

train/labels.csv    file,labels
                    walk/1.jpg,dog;person
                    empty.jpg,
"""

from __future__ import annotations

import csv
import logging
import os
import unicodedata
from collections.abc import Set
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np

from model_export.datasets.base import Data
from model_export.datasets.checking import OnBroken, check_images
from model_export.datasets.digests import listing_digest
from model_export.datasets.display_names import CONTROLS, exact, printable
from model_export.datasets.holding_out import Fold, check_share, hold_out
from model_export.datasets.ignored import check_ignore
from model_export.datasets.image_folder import ImageFolder
from model_export.datasets.layout import AUTO, Layout
from model_export.datasets.listing import is_image, refuse_unreadable
from model_export.errors import InputError, shortlist
from model_export.paths import expand_home

logger = logging.getLogger(__name__)

LABELS_FILE = "labels.csv"
COLUMNS = ("file", "labels")
SEPARATOR = ";"
TRAIN, VAL, TEST = PARTS = ("train", "val", "test")


class MultiLabelFolder(ImageFolder):
    """Image files in the order of their paths. `labels` are float32 (N, classes): 1 for the classes of an image."""

    def digest(self, indices: np.ndarray | None = None) -> str:
        """Of a listing with `dog+person/` in front of each path."""
        chosen = range(len(self)) if indices is None else indices.tolist()
        return listing_digest(
            (f"{self.label_text(i)}/{self.paths[i].relative_to(self.root).as_posix()}", self.digests[i].tobytes().hex())
            for i in chosen
        )


class _Rows(NamedTuple):
    """A part of a data set as its `labels.csv` lists it: paths, and the class names of each."""

    root: Path
    paths: list[Path]
    names: list[frozenset[str]]


def is_multi_label(root: Path) -> bool:
    """Whether a folder, or a part of it, has a `labels.csv` with a column `labels`. Another one may mean anything."""
    root = expand_home(root)
    for folder in (root, *(root / part for part in PARTS)):
        try:
            with (folder / LABELS_FILE).open(encoding="utf-8-sig", errors="replace", newline="") as file:
                if COLUMNS[1] in (name.strip() for name in next(csv.reader(file), ())):
                    return True
        except OSError:
            continue
    return False


def open_multi_label(
    root: Path,
    *,
    val_share: float = 0.1,
    seed: int = 0,
    fold: Fold | None = None,
    broken: OnBroken = "refuse",
    shown: bool = True,
    layout: Layout = AUTO,
) -> Data:
    """Images to train on: `root/train/`, with `root/val/`, `root/test/` or both; or `root` itself, to be split.

    The classes are those of the training part.

    Args:
        val_share, seed, fold: of the part that is kept for validation, if there is none; see `hold_out`.
        broken: whether a broken image is an error, or left out with a warning.

    Raises:
        InputError: a `labels.csv` is missing or malformed, does not fit the images, or names classes that are not
            trained; or the parts do not go together.
    """
    root = _checked(root, layout)
    there = [part for part in PARTS if (root / part / LABELS_FILE).is_file()]
    if not there:
        check_share(val_share)
        rows = _read(root, layout)
        whole = _opened(rows, _classes(rows), broken, shown=shown)
        return Data(*hold_out(whole, share=val_share, seed=seed, fold=fold))
    if TRAIN not in there or len(there) < 2:
        raise InputError(
            f"{printable(root)} has {LABELS_FILE} in {' and '.join(there)}: give {TRAIN} one, and {VAL} or {TEST}; or "
            f"give {printable(root / there[0])}, to have it split"
        )
    if VAL in there and fold:
        raise InputError(f"{printable(root)} has its own validation part, {VAL}: leave --folds and --fold out")
    by_part = {part: _read(root / part, layout) for part in there}
    classes = _classes(by_part[TRAIN])
    opened = {part: _opened(rows, classes, broken, shown=shown) for part, rows in by_part.items()}
    if VAL in opened:
        return Data(opened[TRAIN], opened[VAL], opened.get(TEST))
    check_share(val_share)
    return Data(*hold_out(opened[TRAIN], share=val_share, seed=seed, fold=fold), opened[TEST])


def open_multi_label_images(
    root: Path, *, broken: OnBroken = "refuse", shown: bool = True, layout: Layout = AUTO
) -> MultiLabelFolder:
    """Images to evaluate on: the test part, else the validation part, else all of `root`.

    Raises:
        InputError: as `open_multi_label`.
    """
    root = _checked(root, layout)
    part = next((part for part in (TEST, VAL) if (root / part / LABELS_FILE).is_file()), None)
    if part is None:
        rows = _read(root, layout)
        return _opened(rows, _classes(rows), broken, shown=shown)
    rows = _read(root / part, layout)
    trained = _read(root / TRAIN, layout) if (root / TRAIN / LABELS_FILE).is_file() else rows
    return _opened(rows, _classes(trained), broken, shown=shown)


def _checked(root: Path, layout: Layout) -> Path:
    root = expand_home(root)
    if layout.split != "auto":
        raise InputError(f"--split is for class folders: the parts of {printable(root)} are {', '.join(PARTS)}")
    check_ignore(root, layout)
    return root


def _classes(rows: _Rows) -> tuple[str, ...]:
    """All class names of a part, sorted."""
    classes = tuple(sorted(frozenset().union(*rows.names)))
    if not classes:
        raise InputError(f"{printable(rows.root / LABELS_FILE)} names no class for any image: fill in the labels")
    return classes


def _opened(rows: _Rows, classes: tuple[str, ...], broken: OnBroken, *, shown: bool) -> MultiLabelFolder:
    """The images of a part that can be decoded."""
    if unknown := sorted(frozenset().union(*rows.names).difference(classes)):
        raise InputError(
            f"{printable(rows.root / LABELS_FILE)} names classes that no image of the training part has "
            f"({shortlist(map(exact, unknown))}): correct them, or add such images there"
        )
    name = printable("/".join(rows.root.absolute().parts[-2 if rows.root.name in PARTS else -1 :]))
    whole, digests = check_images(name, rows.root, rows.paths, broken, shown=shown)
    if not len(whole):
        raise InputError(f"{printable(rows.root)} has no images: list some in its {LABELS_FILE}")
    labels = np.array([[name in rows.names[i] for name in classes] for i in whole], dtype=np.float32)
    logger.info(
        "%s: %d images with %.2f of %d classes each on average: %s",
        name, len(whole), labels.sum(axis=1).mean(), len(classes), shortlist(map(exact, classes)),
    )  # fmt: skip
    return MultiLabelFolder(name, rows.root, classes, [rows.paths[i] for i in whole], labels, digests)


def _read(root: Path, layout: Layout) -> _Rows:
    """The rows of a part's `labels.csv`, sorted by path, once they fit its images."""
    path = root / LABELS_FILE
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, strict=True)
            columns = tuple(name.strip() for name in reader.fieldnames or ())
            reader.fieldnames = columns
            lines = [(reader.line_num, row) for row in reader]
    except FileNotFoundError:
        raise InputError(f"{printable(path)} does not exist: every part needs one, with {_expected()}") from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise InputError(f"{printable(path)} cannot be read ({reason}): save it as CSV in UTF-8") from error
    if sorted(columns) != sorted(COLUMNS):
        raise InputError(f"{printable(path)} has the columns {', '.join(columns)}: give it {_expected()}")
    by_path: dict[Path, frozenset[str]] = {}
    for line, row in lines:
        where = f"line {line} of {printable(path)}"
        if None in row or None in row.values():
            raise InputError(f"{where} does not have two columns: quote names with commas")
        image = root / _plain_path(row["file"], where)
        if image in by_path:
            raise InputError(f"{where} lists {printable(row['file'])} again: merge its rows into one")
        by_path[image] = _names(row["labels"], where)
    _check_complete(root, by_path.keys(), layout)
    used = sorted(image for image in by_path if not any(map(layout.ignores, image.relative_to(root).parts)))
    return _Rows(root, used, [by_path[image] for image in used])


def _expected() -> str:
    return f"the columns {' and '.join(COLUMNS)}; several labels of an image are separated by `{SEPARATOR}`"


def _plain_path(text: str, where: str) -> PurePosixPath:
    """The path of an image below its part."""
    path = PurePosixPath(text.strip())
    if not path.parts or path.is_absolute() or ".." in path.parts:
        raise InputError(f"{where} has the file {text!r}: give its path below the folder of {LABELS_FILE}")
    return path


def _names(text: str, where: str) -> frozenset[str]:
    """The class names in a field, in Unicode's composed form; none if it is empty."""
    names = frozenset(unicodedata.normalize("NFC", name.strip()) for name in text.split(SEPARATOR)) - {""}
    if wrong := [name for name in names if CONTROLS.search(name)]:
        raise InputError(f"{where} has a class name with control characters, {wrong[0]!r}: rename the class")
    return names


def _check_complete(root: Path, listed: Set[Path], layout: Layout) -> None:
    """Raises InputError unless every listed image is there, and every image there is listed."""
    found: set[Path] = set()
    for directory, folders, files in os.walk(root, onerror=refuse_unreadable):
        folders[:] = [name for name in folders if not layout.ignores(name)]
        found.update(path for path in (Path(directory, name) for name in files) if is_image(path, layout))
    ignored = {path for path in listed if any(map(layout.ignores, path.relative_to(root).parts))}
    if missing := sorted(path for path in listed - ignored - found if not path.is_file()):
        raise InputError(
            f"{printable(root / LABELS_FILE)} lists {len(missing)} files that are not there "
            f"({shortlist(printable(path.relative_to(root)) for path in missing)}): put them there, or remove the rows"
        )
    if unlisted := sorted(found - listed):
        raise InputError(
            f"{printable(root / LABELS_FILE)} does not list {len(unlisted)} images beside it "
            f"({shortlist(printable(path.relative_to(root)) for path in unlisted)}): add rows (without "
            "labels for images of no class), or leave the files out with `--ignore NAME`"
        )
