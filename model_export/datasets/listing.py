"""The images and folders directly in a folder, with faults of the file system as messages for users."""

from __future__ import annotations

import os
import shlex
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from model_export.datasets.display_names import printable
from model_export.datasets.layout import AUTO, Layout
from model_export.errors import InputError
from model_export.paths import url_in
from service.runtime.images.formats import SIGNATURE_BYTES, has_image_signature

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")  # images by name alone; other files are judged by their first bytes
ARCHIVES = (".zip", ".tar", ".tgz", ".gz", ".bz2", ".xz", ".zst", ".7z", ".rar")


def entries(root: Path) -> list[Path]:
    """Everything in a folder, unsorted.

    Raises:
        InputError: it is missing, not a folder, or unreadable.
    """
    try:
        return list(root.iterdir())
    except FileNotFoundError:
        if url := url_in(root):
            raise InputError(f"{printable(url)} is a URL: download it, unpack it, and give the folder") from None
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
        refuse_unreadable(error)


def loose_images(root: Path, layout: Layout = AUTO) -> list[Path]:
    """The images directly in a folder, sorted by name.

    Raises:
        InputError: as `entries`.
    """
    return sorted(path for path in entries(root) if is_image(path, layout))


def class_folders(root: Path, layout: Layout = AUTO) -> list[Path]:
    """The folders directly in a folder that the layout does not ignore, sorted by name.

    Raises:
        InputError: as `entries`.
    """
    return sorted(path for path in entries(root) if not layout.ignores(path.name) and _is_folder(path))


def holds_images(folder: Path, layout: Layout) -> bool:
    """Whether an image is directly in a folder. Stops at the first one: in class folders that is most often early."""
    return any(is_image(path, layout) for path in entries(folder))


def holds_folders_only(folder: Path, layout: Layout) -> bool:
    """Whether a folder holds other folders and no images."""
    return not holds_images(folder, layout) and bool(class_folders(folder, layout))


def is_image(path: Path, layout: Layout = AUTO) -> bool:
    """Whether a file is an image: by its suffix, or else (`.jfif`, no suffix) by its first bytes.

    A broken link counts as an image if it has an image's suffix: opening it later reports the fault.
    """
    if layout.ignores(path.name):
        return False
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # opening a pipe would block forever
            return False
        if path.suffix.lower() in SUFFIXES:
            return True
        with path.open("rb") as file:
            head = file.read(SIGNATURE_BYTES)
    except OSError:
        return path.suffix.lower() in SUFFIXES
    return has_image_signature(head)


def file_mode(path: Path) -> int:
    """The mode of what a path leads to; 0 if there is nothing, or access is denied."""
    try:
        return path.stat().st_mode
    except OSError:
        return 0


def check_link(path: Path, layout: Layout) -> None:
    """Raises InputError for a broken link: a class, or some of its images, would be missing."""
    if path.is_symlink() and not file_mode(path) and not layout.ignores(path.name):
        raise InputError(
            f"{printable(path)} is a link to {printable(path.readlink())}, which does not exist or may not be read: "
            f"mend or remove it, or leave it out with `--ignore {shlex.quote(printable(path.name))}`"
        )


def overlapping(folders: Sequence[Path]) -> tuple[Path, Path] | None:
    """Two of the folders that are the same, or one inside the other, once links are followed; None without any."""
    by_target: dict[Path, Path] = {}
    for folder in folders:
        if (other := by_target.setdefault(folder.resolve(), folder)) is not folder:
            return other, folder
    for target, folder in by_target.items():
        for parent in target.parents:
            if parent in by_target:
                return by_target[parent], folder
    return None


def refuse_unreadable(error: OSError) -> NoReturn:
    """Raises InputError for a folder that the operating system refuses to list."""
    path = printable(os.fsdecode(error.filename))
    raise InputError(f"{path} cannot be read ({error.strerror}): check its owner and permissions") from error


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError as error:
        refuse_unreadable(error)
