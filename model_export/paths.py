"""Paths as users give them: with `~` for a home folder, or a URL where a file or folder belongs."""

from __future__ import annotations

import os
import re
import tempfile
from pathlib import Path

from model_export.errors import InputError

URL = re.compile(r"(?:^|/)([a-z][a-z\d+]+):/+(.+)", re.IGNORECASE)


def expand_home(path: Path) -> Path:
    """The path with its `~` expanded. Shells leave a `~` that is quoted, or follows `=`.

    Raises:
        InputError: the home folder is unknown: there is no such user, or this one has neither HOME nor an entry in
            passwd.
    """
    try:
        return path.expanduser()
    except RuntimeError:
        raise InputError(f"{path}: the home folder {path.parts[0]} is unknown: give the path in full") from None


def cache_folder(path: str) -> Path:
    """A folder for caches, given with `~`. Without a home folder, the same path below the temporary folder."""
    try:
        return expand_home(Path(path))
    except InputError:
        return Path(tempfile.gettempdir(), f"resnet-service-{os.getuid()}", *Path(path).parts[1:])


def url_in(path: Path) -> str | None:
    """The URL that was given as a path, or None. `Path` merges its two slashes; the result has both."""
    found = URL.search(str(path))
    return f"{found[1]}://{found[2]}" if found else None
