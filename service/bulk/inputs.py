"""From the arguments of the command to images: files, folders, patterns, and a list of paths on standard input.

Everything is looked at as it comes, in an order that does not change: of a folder, only the names of its own entries
are held, sorted.
"""

from __future__ import annotations

import fnmatch
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from io import BufferedReader
from pathlib import Path

from service.bulk.rows import Problem
from service.bulk.stream import Source, Unreadable
from service.upload_faults import ImageTooLarge

STDIN = "-"
SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp")  # of images in folders; a file named itself may have any
MAGIC = re.compile(r"[*?[]")
IMAGES = re.compile(rb"\xff\xd8\xff|\x89PNG\r\n\x1a\n|RIFF....WEBP", re.DOTALL)  # how an image begins


class InputError(Exception):
    """An argument cannot be used; the message names the remedy."""


def shown(path: str) -> str:
    """The name of a path in rows. Bytes that are not UTF-8, which file names may have, are written as `\\xff`."""
    return os.fsencode(path).decode(errors="backslashreplace")


class File:
    """An image in a file. A `Source`."""

    def __init__(self, path: str, max_bytes: int, name: str | None = None) -> None:
        """
        Args:
            name: of its row; None for the path.
        """
        self.path = path
        self.name = name or shown(path)
        self._max_bytes = max_bytes

    def read(self) -> bytes:
        try:
            with Path(self.path).open("rb", buffering=0) as file:
                size = os.fstat(file.fileno()).st_size
                if size > self._max_bytes:  # the service would refuse it: no need to read it
                    raise Unreadable(Problem.of(ImageTooLarge(bytes=size, max_bytes=self._max_bytes)))
                return file.readall() or b""
        except OSError as error:
            raise Unreadable(unreadable(self.name, error)) from None


class Bytes:
    """An image on standard input. A `Source`."""

    name = STDIN

    def __init__(self, data: bytes) -> None:
        self._data = data

    def read(self) -> bytes:
        return self._data


class Nothing:
    """An argument that stands for no image. A `Source`, so that it has a row."""

    def __init__(self, path: str, problem: Problem) -> None:
        self.name = shown(path)
        self._problem = problem

    def read(self) -> bytes:
        raise Unreadable(self._problem)


class Inputs:
    """The images that the arguments stand for.

    Attributes:
        skipped: files in folders that are no images by their names, as far as `sources` has come.
    """

    def __init__(self, arguments: Sequence[str], open_stdin: Callable[[], BufferedReader], max_bytes: int) -> None:
        """
        Args:
            open_stdin: opens standard input, once it is needed.
            max_bytes: of one image; a larger file is not read.

        Raises:
            InputError: an argument cannot be used.
        """
        for argument in arguments:
            if not argument:
                raise InputError("empty path: give files, folders or patterns, or - for a list of paths")
            if not os.path.lexists(argument) and argument.split("/").count("**") > 1:
                raise InputError(f"{shown(argument)}: ** may stand once in a pattern: leave the others out")
        if list(arguments).count(STDIN) > 1:
            raise InputError("- is given twice: standard input can be read once only")
        self._arguments = arguments
        self._open_stdin = open_stdin
        self._max_bytes = max_bytes
        self.skipped = 0

    @property
    def countable(self) -> bool:
        """Whether `count` can tell how many there are."""
        return STDIN not in self._arguments

    def count(self) -> int:
        """How many images there are, without reading them."""
        return sum(1 for _ in Inputs(self._arguments, self._open_stdin, self._max_bytes).sources())

    def sources(self) -> Iterator[Source]:
        """The images, one after the other."""
        for argument in self._arguments:
            if argument == STDIN:
                yield from self._of_stdin()
            elif not os.path.lexists(argument) and MAGIC.search(argument):
                yield from self._matching(argument)
            else:
                yield from self._of_path(argument)

    def _of_path(self, path: str) -> Iterator[Source]:
        if not Path(path).is_dir():
            yield File(path, self._max_bytes)
            return
        found = False
        for file in self._of_folder(path):
            found = True
            yield file
        if not found:
            detail = f"The folder {shown(path)} holds no file that ends in {', '.join(SUFFIXES)}."
            remedy = "Name another folder, or files of other names by a pattern such as 'FOLDER/**/*'."
            yield Nothing(path, Problem("no-image-found", "The folder holds no image", detail, remedy))

    def _of_folder(self, folder: str) -> Iterator[Source]:
        """Its images and those of the folders below; hidden ones are left out, and links to folders not followed."""
        try:
            entries = _entries(folder)
        except OSError as error:
            yield Nothing(folder, unreadable(shown(folder), error))
            return
        for name, is_folder in entries:
            path = os.path.join(folder, name)  # noqa: PTH118 (the way the user has written it, and ten times faster)
            if name.startswith("."):
                continue
            if is_folder:
                yield from self._of_folder(path)
            elif name.lower().endswith(SUFFIXES):
                yield File(path, self._max_bytes)
            else:
                self.skipped += 1

    def _matching(self, pattern: str) -> Iterator[Source]:
        found = False
        start = "/" if pattern.startswith("/") else ""
        for path in _glob(start, [part for part in pattern.split("/") if part]):
            found = True
            yield File(path, self._max_bytes)
        if not found:
            detail = f"No file matches {shown(pattern)}."
            remedy = "Check the pattern: * stands for a name or a part of one, ** for any number of folders."
            yield Nothing(pattern, Problem("no-image-found", "The pattern matches nothing", detail, remedy))

    def _of_stdin(self) -> Iterator[Source]:
        """The files and folders of the list; or the image, if it is one instead of a list."""
        with self._open_stdin() as stdin:
            if IMAGES.match(stdin.peek(16)):
                yield Bytes(stdin.read(self._max_bytes + 1))
                return
            for line in stdin:
                if path := os.fsdecode(line.rstrip(b"\r\n")):
                    yield from self._of_path(path)


def _entries(folder: str) -> list[tuple[str, bool]]:
    """The names in a folder, sorted, and whether each is a folder itself."""
    with os.scandir(folder or ".") as found:
        return sorted((entry.name, entry.is_dir(follow_symlinks=False)) for entry in found)


def _glob(folder: str, parts: Sequence[str]) -> Iterator[str]:
    """The files below a folder that match a pattern, sorted folder by folder. As in a shell, `*` matches no dot at the
    beginning of a name.
    """
    first, *rest = parts
    try:
        if first == "**":
            yield from _glob(folder, rest or ["*"])
            names: Iterable[str] = [name for name, is_folder in _entries(folder) if is_folder and name[0] != "."]
            for name in names:
                yield from _glob(os.path.join(folder, name), parts)  # noqa: PTH118 (as above)
            return
        if MAGIC.search(first):
            names = [
                name
                for name, _ in _entries(folder)
                if fnmatch.fnmatchcase(name, first) and (name[0] != "." or first[0] == ".")
            ]
        else:
            names = [first]
        for name in names:
            path = os.path.join(folder, name)  # noqa: PTH118 (as above)
            if rest:
                if Path(path).is_dir():
                    yield from _glob(path, rest)
            elif Path(path).is_file():
                yield path
    except OSError:  # a folder that may not be read matches nothing, as in a shell
        return


def unreadable(name: str, error: OSError) -> Problem:
    """Why a file or folder has no bytes to give."""
    if isinstance(error, FileNotFoundError):
        detail, remedy = f"There is no file {name}.", "Check the path, and the folder in which the command runs."
        return Problem("file-not-found", "The file is not there", detail, remedy)
    detail = f"{name} cannot be read: {error.strerror or error}."
    return Problem("file-not-readable", "The file cannot be read", detail, "Give this user read permission.")
