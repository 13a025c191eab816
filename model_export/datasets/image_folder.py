"""Folders of images, one folder per class: the layout that torchvision calls `ImageFolder`."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from model_export.datasets.base import Data, Dataset
from model_export.datasets.checking import OnBroken, check_images
from model_export.datasets.digests import listing_digest
from model_export.datasets.display_names import differ_in_case, exact, printable
from model_export.datasets.holding_out import Fold, check_share, hold_out
from model_export.datasets.ignored import check_ignore
from model_export.datasets.layout import AUTO, Layout
from model_export.datasets.listing import class_folders, loose_images
from model_export.datasets.scanning import Tree, scan
from model_export.datasets.split_names import names_a_split
from model_export.datasets.splits import Splits, find_splits, holds_only_held_out
from model_export.errors import InputError, shortlist
from model_export.paths import expand_home

logger = logging.getLogger(__name__)


class ImageFolder(Dataset):
    """Image files, sorted by class and then by path.

    Args:
        root: the folder of the class folders.
        labels: int64 (N,), indices into `classes`.
        digests: uint8 (N, 32), the SHA-256 of each file.
    """

    digests: np.ndarray

    def __init__(
        self,
        name: str,
        root: Path,
        classes: tuple[str, ...],
        paths: Sequence[Path],
        labels: np.ndarray,
        digests: np.ndarray,
    ) -> None:
        self.name, self.root, self.classes = name, root, classes
        self.paths, self.labels, self.digests = tuple(paths), labels, digests

    def read(self, index: int) -> bytes:
        return self.paths[index].read_bytes()

    def title(self, index: int) -> str:
        return printable(self.paths[index])

    def digest(self, indices: np.ndarray | None = None) -> str:
        chosen = range(len(self)) if indices is None else indices.tolist()
        return listing_digest(
            (self.paths[i].relative_to(self.root).as_posix(), self.digests[i].tobytes().hex()) for i in chosen
        )


def open_folder(
    root: Path,
    *,
    val_share: float = 0.1,
    seed: int = 0,
    fold: Fold | None = None,
    broken: OnBroken = "refuse",
    shown: bool = True,
    layout: Layout = AUTO,
) -> Data:
    """Images to train on: `root/train/<class>/`, with `root/val/`, `root/test/` or both; or one tree `root/<class>/`.

    `find_splits` says which folders are the parts. Without a validation part, one is kept of the images to train on,
    class by class (see `hold_out`): the test part never has a say in which weights are the best. The layout is logged
    before any image is decoded.

    Args:
        val_share: without a validation part: the fraction of every class that is kept for validation.
        seed: decides which images these are.
        fold: keeps a fold for validation instead of a share.
        broken: whether a broken image is an error, or left out with a warning.

    Raises:
        InputError: as `open_images`; or there are too few classes or images; the classes of two parts differ; there is
            only one part; or a fold is asked for and there is a validation part.
    """
    root = expand_home(root)
    parts = find_splits(root, layout)
    if parts.train and (parts.val or parts.test):
        if parts.val and fold:
            raise InputError(
                f"{printable(parts.whole)} has its own validation part, {printable(parts.val.name)}: leave --folds and "
                f"--fold out, or skip that part with `--ignore {printable(parts.val.name)}`"
            )
        return _open_parts(root, parts, val_share, seed, fold, broken, layout, shown=shown)
    if alone := parts.train or parts.held_out:
        raise InputError(
            f"{printable(parts.whole)} has {printable(alone.relative_to(parts.whole))} and no folder for the other "
            f"part: name both with `--split TRAIN,VAL`; or give {printable(alone)}, to have it split; or say `--split "
            "none` if its folders are classes"
        )
    check_share(val_share)
    tree = _scanned(parts.whole, layout, root)
    _check_classes(tree)
    logger.info("%s: %s; %d images", _name(tree.root), _classes(tree), len(tree.files))
    return Data(*hold_out(_decoded(tree, broken, shown=shown), share=val_share, seed=seed, fold=fold))


def _open_parts(
    root: Path,
    parts: Splits,
    val_share: float,
    seed: int,
    fold: Fold | None,
    broken: OnBroken,
    layout: Layout,
    *,
    shown: bool,
) -> Data:
    """The images of a data set that has a training part and at least one other."""
    found = {
        purpose: _scanned(part, layout, root)
        for purpose, part in (("train", parts.train), ("validate", parts.val), ("test", parts.test))
        if part
    }
    if "validate" not in found:
        check_share(val_share)
    train = found["train"]
    for tree in found.values():
        _check_same_classes(train, tree)
    _check_classes(train)
    used = {folder for tree in found.values() for folder in (*tree.root.parents, tree.root)}
    if left := [folder.name for folder in class_folders(parts.whole, layout) if folder not in used]:
        logger.info("%s: ignored the folders %s", printable(parts.whole), shortlist(map(printable, left)))
    logger.info(
        "%s: %s; %s",
        printable(root.absolute().name),
        _classes(train),
        ", ".join(
            f"{len(tree.files)} {'images ' if tree is train else ''}in {printable(tree.root.relative_to(root))} to "
            f"{purpose} on"
            for purpose, tree in found.items()
        ),
    )
    whole = {purpose: _decoded(tree, broken, shown=shown) for purpose, tree in found.items()}
    if "validate" in whole:
        return Data(whole["train"], whole["validate"], whole.get("test"))
    return Data(*hold_out(whole["train"], share=val_share, seed=seed, fold=fold), whole["test"])


def open_images(root: Path, *, broken: OnBroken = "refuse", shown: bool = True, layout: Layout = AUTO) -> ImageFolder:
    """Images to evaluate on: the test part, else the validation part (see `find_splits`), else all of `root/<class>/`.

    Every image below a class folder counts, however deep; links are followed. Every file is decoded once: a broken one
    is reported now, not in the middle of a training.

    Args:
        broken: whether a broken image is an error, or left out with a warning.

    Raises:
        InputError: there is no such folder, it has another layout, a class has no images, or an image is broken.
    """
    root = expand_home(root)
    parts = find_splits(root, layout)
    held_out = parts.held_out if parts.train or holds_only_held_out(parts.whole, layout) else None
    tree = _scanned(held_out or parts.whole, layout, root)
    logger.info("%s: %s; %d images", _name(tree.root), _classes(tree), len(tree.files))
    return _decoded(tree, broken, shown=shown)


def open_unlabelled(root: Path, layout: Layout = AUTO) -> ImageFolder | None:
    """The images directly in a folder, without labels and classes; None if there are none.

    Raises:
        InputError: there is no such folder, or an image is broken.
    """
    root = expand_home(root)
    files = [(path, 0) for path in loose_images(root, layout)]
    if not files:
        return None
    check_ignore(root, layout)
    images = _decoded(Tree(root, ("",), files, ignored=""), "refuse", shown=True)
    return ImageFolder(images.name, root, (), images.paths, images.labels, images.digests)


def _scanned(root: Path, layout: Layout, whole: Path | None = None) -> Tree:
    """The images of a tree. Logs what is ignored, and warns of class names that look like a mistake."""
    tree = scan(root, layout, whole)
    if tree.ignored:
        logger.info("%s: ignored %s", printable(root), tree.ignored)
    if alike := differ_in_case(tree.classes):
        logger.warning(
            "%s: the classes %s differ only in capitals; they stay separate", printable(root), shortlist(alike)
        )
    return tree


def _classes(tree: Tree) -> str:
    return f"{len(tree.classes)} classes: {shortlist(map(exact, tree.classes))}"


def _decoded(tree: Tree, broken: OnBroken, *, shown: bool) -> ImageFolder:
    """The images of a tree that can be decoded. Each file is read once, to decode it and for its digest."""
    name = _name(tree.root)
    paths, every = [path for path, _ in tree.files], np.array([label for _, label in tree.files], dtype=np.int64)
    whole, digests = check_images(name, tree.root, paths, broken, shown=shown)
    labels = every[whole]
    counts = np.bincount(labels, minlength=len(tree.classes))
    if empty := [str(tree.root / tree.classes[i]) for i in np.flatnonzero(counts == 0)]:
        raise InputError(
            f"all images in {shortlist(map(printable, empty))} are broken: put whole ones there, or remove the folder"
        )
    return ImageFolder(name, tree.root, tree.classes, [paths[i] for i in whole], labels, digests)


def _check_classes(tree: Tree) -> None:
    if len(tree.classes) == 1:
        raise InputError(
            f"{printable(tree.root)} holds only one class folder, {exact(tree.classes[0])}: give at least two classes"
        )


def _check_same_classes(train: Tree, val: Tree) -> None:
    differing = [
        f"only {printable(tree.root)} has {shortlist(map(exact, names))}"
        for tree, other in ((train, val), (val, train))
        if (names := [name for name in tree.classes if name not in other.classes])
    ]
    if differing:
        raise InputError(
            f"the classes of {printable(train.root)} and {printable(val.root)} differ ({'; '.join(differing)}): give "
            "both the same folders"
        )


def _name(root: Path) -> str:
    """A short name for logs and reports: "pictures/train" for `/data/pictures/train`, "pets" for `/data/pets`."""
    parts = root.absolute().parts
    return printable("/".join(parts[-2:] if names_a_split(parts[-1]) else parts[-1:]))
