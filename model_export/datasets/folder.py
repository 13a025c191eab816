"""Folders of images, one folder per class: the layout that torchvision calls ImageFolder."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from model_export.datasets.base import MAX_PIXELS, Data, Dataset
from model_export.errors import InputError, some
from model_export.progress import Progress
from service.errors import ImageProblem
from service.imaging import load, open_image
from service.providers import usable_cores

logger = logging.getLogger(__name__)

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
TRAIN = "train"
VAL = ("val", "validation", "valid", "test")  # names of the second tree, in order of preference

OnBroken = Literal["refuse", "skip"]


class ImageFolder(Dataset):
    """Image files, by class and then by path.

    Args:
        labels: int64 (N,), indices into `classes`.
    """

    def __init__(self, name: str, classes: tuple[str, ...], paths: Sequence[Path], labels: np.ndarray) -> None:
        self.name, self.classes, self.paths, self.labels = name, classes, tuple(paths), labels

    @classmethod
    def open(cls, root: Path, *, broken: OnBroken = "refuse", shown: bool = True) -> ImageFolder:
        """The tree `root/<class>/...`: every image below a class folder, however deep; links are followed.

        Every file is decoded once, so that a broken one is found now and not in the middle of a training.

        Args:
            broken: whether a broken image is an error, or left out with a warning.

        Raises:
            InputError: there is no such folder, it has another layout, a class has no images, or an image is broken.
        """
        return _decoded(_scan(root), broken, shown=shown)

    def read(self, index: int) -> bytes:
        return self.paths[index].read_bytes()

    def title(self, index: int) -> str:
        return str(self.paths[index])

    def part(self, name: str, indices: np.ndarray) -> ImageFolder:
        """Some of the images, under a name of their own; the classes stay."""
        return ImageFolder(name, self.classes, [self.paths[i] for i in indices], self.labels[indices])


def open_folder(
    root: Path, *, val_share: float = 0.1, seed: int = 0, broken: OnBroken = "refuse", shown: bool = True
) -> Data:
    """Images to train on: either `root/train/<class>/` and `root/val/<class>/`, or one tree `root/<class>/`.

    The second folder may also be called validation, valid or test. One tree is split by the seed, class by class;
    every class of two images or more has at least one in each part.

    Args:
        val_share: of one tree: the fraction of every class that is kept for validation.

    Raises:
        InputError: as `ImageFolder.open`; or there are too few classes or images, or the two trees' classes differ.
    """
    val_root = _val_root(root)
    if (root / TRAIN).is_dir() and val_root:
        train, val = _scan(root / TRAIN), _scan(val_root)
        _check_same_classes(train, val)
        _check_classes(train)
        return Data(_decoded(train, broken, shown=shown), _decoded(val, broken, shown=shown))
    if not 0 < val_share < 1:
        raise InputError(f"{val_share} is no share of the images to validate on: give one between 0 and 1, such as 0.1")
    tree = _scan(root)
    _check_classes(tree)
    return _split(_decoded(tree, broken, shown=shown), val_share, seed)


def open_images(root: Path, *, broken: OnBroken = "refuse", shown: bool = True) -> ImageFolder:
    """Images to evaluate on: those of `root/val/` (validation, valid, test) if it is no class, else of `root` itself.

    Raises:
        InputError: as `ImageFolder.open`.
    """
    val_root = _val_root(root)
    if val_root and ((root / TRAIN).is_dir() or all(path.name in VAL for path in _folders(root))):
        return ImageFolder.open(val_root, broken=broken, shown=shown)
    return ImageFolder.open(root, broken=broken, shown=shown)


class _Tree(NamedTuple):
    root: Path
    classes: tuple[str, ...]
    files: list[tuple[Path, int]]  # with labels


def _scan(root: Path) -> _Tree:
    """Finds the images of a tree, without opening any."""
    try:
        entries = list(root.iterdir())
    except FileNotFoundError:
        raise InputError(f"{root} does not exist: give a folder that holds one folder of images per class") from None
    except NotADirectoryError:
        raise InputError(f"{root} is not a folder: give one that holds one folder of images per class") from None
    except OSError as error:
        raise InputError(f"{root} cannot be read ({error.strerror}): check its owner and permissions") from error
    if loose := sorted(path.name for path in entries if _is_image(path) and not path.is_dir()):
        raise InputError(
            f"{root} holds images directly ({len(loose)}: {some(loose)}), and nothing tells their class: move them "
            "into one folder per class"
        )
    folders = _folders(root)
    if not folders:
        raise InputError(f"{root} holds no folders: put the images of every class into a folder named after the class")

    files: list[tuple[Path, int]] = []
    empty = []
    ignored = Counter(_kind(path) for path in entries if not path.is_dir())
    for label, folder in enumerate(folders):
        found = sorted(_files_below(folder))
        images = [path for path in found if _is_image(path)]
        ignored.update(_kind(path) for path in found if not _is_image(path))
        files.extend((path, label) for path in images)
        if not images:
            empty.append(str(folder))
    if ignored:
        kinds = ", ".join(f"{count} {kind}" for kind, count in ignored.most_common())
        logger.info("%s: ignored %d files that are no images: %s", root, ignored.total(), kinds)
    if empty:
        raise InputError(
            f"there are no images ({', '.join(SUFFIXES)}) in {some(empty)}: put some there, or remove the folder"
        )
    return _Tree(root, tuple(folder.name for folder in folders), files)


def _folders(root: Path) -> list[Path]:
    """The class folders, by name."""
    return sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))


def _files_below(folder: Path) -> Iterator[Path]:
    """Every file, hidden folders left out; a folder that is linked twice, or into itself, is entered once."""
    entered = set()
    for directory, folders, names in os.walk(folder, followlinks=True):
        here = Path(directory)
        entered.add(here.resolve())
        folders[:] = [
            name for name in sorted(folders) if not name.startswith(".") and (here / name).resolve() not in entered
        ]
        yield from (here / name for name in names)


def _is_image(path: Path) -> bool:
    return not path.name.startswith(".") and path.suffix.lower() in SUFFIXES


def _kind(path: Path) -> str:
    return "hidden" if path.name.startswith(".") else path.suffix.lower() or "without extension"


def _decoded(tree: _Tree, broken: OnBroken, *, shown: bool) -> ImageFolder:
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
                faults.append(f"{file[0]} ({fault})")
            progress.advance()
    if faults and broken == "refuse":
        raise InputError(
            f"{len(faults)} of the {len(tree.files)} images in {tree.root} cannot be used: {some(faults)}: replace "
            "them, or leave them out with `--broken skip`"
        )
    for fault in faults:
        logger.warning("left out: %s", fault)
    labels = np.array([label for _, label in whole], dtype=np.int64)
    counts = np.bincount(labels, minlength=len(tree.classes))
    if empty := [str(tree.root / tree.classes[i]) for i in np.flatnonzero(counts == 0)]:
        raise InputError(f"all images in {some(empty)} are broken: put whole ones there, or remove the folder")
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


def _val_root(root: Path) -> Path | None:
    return next((root / name for name in VAL if (root / name).is_dir()), None)


def _check_classes(tree: _Tree) -> None:
    if len(tree.classes) > 1:
        return
    train = tree.root / TRAIN
    hint = f"; if it is to be split for training and validation, give {train}" if tree.classes == (TRAIN,) else ""
    raise InputError(
        f"{tree.root} holds only one class folder, {tree.classes[0]}: give at least two classes to tell apart{hint}"
    )


def _check_same_classes(train: _Tree, val: _Tree) -> None:
    differing = [
        f"only {tree.root} has {some(names)}"
        for tree, other in ((train, val), (val, train))
        if (names := [name for name in tree.classes if name not in other.classes])
    ]
    if differing:
        raise InputError(
            f"the classes of {train.root} and {val.root} differ ({'; '.join(differing)}): give both the same folders"
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
    return "/".join(parts[-2:] if parts[-1] in (TRAIN, *VAL) else parts[-1:])
