"""Folders of images, one folder per class: the layout that torchvision calls ImageFolder."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import Literal

import numpy as np

from model_export.datasets.base import MAX_PIXELS, Data, Dataset
from model_export.datasets.layout import (
    AUTO,
    Layout,
    Tree,
    check_ignored,
    class_folders,
    differ_in_case,
    exact,
    expanded,
    find_parts,
    loose_images,
    names_a_part,
    only_validates,
    printable,
    scan,
)
from model_export.errors import InputError, some
from model_export.progress import Progress
from service.errors import ImageProblem
from service.imaging import load, open_image
from service.providers import usable_cores

logger = logging.getLogger(__name__)

OnBroken = Literal["refuse", "skip"]


class ImageFolder(Dataset):
    """Image files, by class and then by path.

    Args:
        labels: int64 (N,), indices into `classes`.
    """

    def __init__(self, name: str, classes: tuple[str, ...], paths: Sequence[Path], labels: np.ndarray) -> None:
        self.name, self.classes, self.paths, self.labels = name, classes, tuple(paths), labels

    @classmethod
    def open(cls, root: Path, *, broken: OnBroken = "refuse", shown: bool = True, layout: Layout = AUTO) -> ImageFolder:
        """The tree `root/<class>/...`: every image below a class folder, however deep; links are followed.

        Every file is decoded once, so that a broken one is found now and not in the middle of a training.

        Args:
            broken: whether a broken image is an error, or left out with a warning.

        Raises:
            InputError: there is no such folder, it has another layout, a class has no images, or an image is broken.
        """
        return _decoded(_scanned(expanded(root), layout), broken, shown=shown)

    @classmethod
    def open_loose(
        cls, root: Path, *, broken: OnBroken = "refuse", shown: bool = True, layout: Layout = AUTO
    ) -> ImageFolder:
        """The images that lie in a folder itself, without labels and classes; decoded once, as by `open`.

        Raises:
            InputError: there is no such folder, it has no images, or one is broken.
        """
        root = expanded(root)
        check_ignored(root, layout)
        files = [(path, 0) for path in loose_images(root, layout)]
        whole = _decoded(Tree(root, ("",), files, ""), broken, shown=shown)
        return cls(whole.name, (), whole.paths, whole.labels)

    def read(self, index: int) -> bytes:
        return self.paths[index].read_bytes()

    def title(self, index: int) -> str:
        return printable(self.paths[index])

    def part(self, name: str, indices: np.ndarray) -> ImageFolder:
        """Some of the images, under a name of their own; the classes stay."""
        return ImageFolder(name, self.classes, [self.paths[i] for i in indices], self.labels[indices])


def open_folder(
    root: Path,
    *,
    val_share: float = 0.1,
    seed: int = 0,
    broken: OnBroken = "refuse",
    shown: bool = True,
    layout: Layout = AUTO,
) -> Data:
    """Images to train on: either `root/train/<class>/` and `root/val/<class>/`, or one tree `root/<class>/`.

    Which folders are the two parts: see `find_parts`. One tree is split by the seed, class by class; every class of
    two images or more has at least one in each part. What was understood is said before any image is decoded.

    Args:
        val_share: of one tree: the fraction of every class that is kept for validation.

    Raises:
        InputError: as `ImageFolder.open`; or there are too few classes or images, or the two trees' classes differ, or
            there is a part to train on and none to validate on.
    """
    root = expanded(root)
    parts = find_parts(root, layout)
    if parts.train and parts.val:
        train, val = _scanned(parts.train, layout, root), _scanned(parts.val, layout, root)
        _check_same_classes(train, val)
        _check_classes(train)
        used = {*parts.train.parents, parts.train, *parts.val.parents, parts.val}
        if left := [folder.name for folder in class_folders(parts.whole, layout) if folder not in used]:
            logger.info("%s: passed over the folders %s", printable(parts.whole), some(map(printable, left)))
        logger.info(
            "%s: %s; %d images in %s to train on, %d in %s to validate on",
            printable(root.absolute().name),
            _classes(train),
            len(train.files),
            printable(train.root.relative_to(root)),
            len(val.files),
            printable(val.root.relative_to(root)),
        )
        return Data(_decoded(train, broken, shown=shown), _decoded(val, broken, shown=shown))
    if alone := parts.train or parts.val:
        raise InputError(
            f"{printable(parts.whole)} has {printable(alone.relative_to(parts.whole))} and no folder for the other "
            f"part: name both with `--split TRAIN,VAL`; or give {printable(alone)}, which is then split by itself; or "
            "say `--split none` if its folders are classes"
        )
    if not 0 < val_share < 1:
        raise InputError(f"{val_share} is no share of the images to validate on: give one between 0 and 1, such as 0.1")
    tree = _scanned(parts.whole, layout, root)
    _check_classes(tree)
    logger.info("%s: %s; %d images", _name(tree.root), _classes(tree), len(tree.files))
    return _split(_decoded(tree, broken, shown=shown), val_share, seed)


def open_images(root: Path, *, broken: OnBroken = "refuse", shown: bool = True, layout: Layout = AUTO) -> ImageFolder:
    """Images to evaluate on: those of the part to validate on (see `find_parts`) where there is one, else of `root`.

    Raises:
        InputError: as `ImageFolder.open`.
    """
    root = expanded(root)
    parts = find_parts(root, layout)
    validates = parts.val and (parts.train or only_validates(parts.whole, layout))
    tree = _scanned(parts.val if parts.val and validates else parts.whole, layout, root)
    logger.info("%s: %s; %d images", _name(tree.root), _classes(tree), len(tree.files))
    return _decoded(tree, broken, shown=shown)


def _scanned(root: Path, layout: Layout, whole: Path | None = None) -> Tree:
    """The images of a tree; what was passed over is said, and what looks like a mistake."""
    tree = scan(root, layout, whole)
    if tree.passed_over:
        logger.info("%s: passed over %s", printable(root), tree.passed_over)
    if alike := differ_in_case(tree.classes):
        logger.warning("%s: the classes %s differ only in capitals, and are told apart", printable(root), some(alike))
    return tree


def _classes(tree: Tree) -> str:
    return f"{len(tree.classes)} classes: {some(map(exact, tree.classes))}"


def _decoded(tree: Tree, broken: OnBroken, *, shown: bool) -> ImageFolder:
    """The images of a tree that can be decoded."""
    name = _name(tree.root)
    whole = []
    faults = []
    with (
        ThreadPool(usable_cores()) as pool,
        Progress(f"{name}: checking", len(tree.files), unit="image", shown=shown) as progress,
    ):
        checked = pool.imap(_fault, (path for path, _ in tree.files), chunksize=16)
        for file, fault in zip(tree.files, checked, strict=True):
            if fault is None:
                whole.append(file)
            else:
                faults.append(f"{printable(file[0])} ({fault})")
            progress.advance()
    if faults and broken == "refuse":
        raise InputError(
            f"{len(faults)} of the {len(tree.files)} images in {printable(tree.root)} cannot be used: {some(faults)}: "
            "replace them, or leave them out with `--broken skip`"
        )
    for fault in faults:
        logger.warning("left out: %s", fault)
    labels = np.array([label for _, label in whole], dtype=np.int64)
    counts = np.bincount(labels, minlength=len(tree.classes))
    if empty := [str(tree.root / tree.classes[i]) for i in np.flatnonzero(counts == 0)]:
        raise InputError(
            f"all images in {some(map(printable, empty))} are broken: put whole ones there, or remove the folder"
        )
    return ImageFolder(name, tree.classes, [path for path, _ in whole], labels)


def _fault(path: Path) -> str | None:
    """What is wrong with an image file."""
    try:
        data = path.read_bytes()
        image = open_image(data, MAX_PIXELS)
        # All of a JPEG's data is read at any scale, and at an eighth much faster.
        image.draft(None, (1, 1))
        load(image, data)
    except ImageProblem as problem:
        return str(problem).rstrip(".")
    except OSError as error:
        return error.strerror or str(error)
    return None


def _check_classes(tree: Tree) -> None:
    if len(tree.classes) == 1:
        raise InputError(
            f"{printable(tree.root)} holds only one class folder, {exact(tree.classes[0])}: give at least two classes "
            "to tell apart"
        )


def _check_same_classes(train: Tree, val: Tree) -> None:
    differing = [
        f"only {printable(tree.root)} has {some(map(exact, names))}"
        for tree, other in ((train, val), (val, train))
        if (names := [name for name in tree.classes if name not in other.classes])
    ]
    if differing:
        raise InputError(
            f"the classes of {printable(train.root)} and {printable(val.root)} differ ({'; '.join(differing)}): give "
            "both the same folders"
        )


def _split(whole: ImageFolder, val_share: float, seed: int) -> Data:
    chosen = np.zeros(len(whole), dtype=bool)  # for validation
    for label in range(len(whole.classes)):
        members = np.flatnonzero(whole.labels == label)
        count = min(max(round(val_share * len(members)), 1), len(members) - 1)
        chosen[np.random.default_rng((seed, label)).permutation(members)[:count]] = True
    if not chosen.any():
        raise InputError(f"{whole.name} has one image of every class, which leaves none to validate on: add more")
    train, val = np.flatnonzero(~chosen), np.flatnonzero(chosen)
    logger.info("%s: %d images to train on, %d to validate on (seed %d)", whole.name, len(train), len(val), seed)
    return Data(whole.part(f"{whole.name} (train)", train), whole.part(f"{whole.name} (val)", val))


def _name(root: Path) -> str:
    """A short name for people: of `/data/pictures/train` "pictures/train"."""
    parts = root.absolute().parts
    return printable("/".join(parts[-2:] if names_a_part(parts[-1]) else parts[-1:]))
