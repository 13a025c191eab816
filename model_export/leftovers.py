"""Temporary folders in a model folder, of commands that were killed before they could remove them."""

from __future__ import annotations

import shutil
import time
from contextlib import suppress
from pathlib import Path

PATTERNS = (".staging-*", ".removed-*")  # versions on their way in, and on their way out
AGE_S = 24 * 3600.0  # no command works on one version for so long


def remove_leftovers(root: Path) -> list[Path]:
    """Removes the temporary folders of a model folder, and of its models, in which nothing has changed for a day.

    A model that has nothing else is removed, too: its first export was killed.

    Returns:
        Their paths.

    Raises:
        OSError: one cannot be removed.
    """
    oldest = time.time() - AGE_S
    left: list[Path] = []
    for path in sorted(path for pattern in PATTERNS for at in (pattern, f"*/{pattern}") for path in root.glob(at)):
        with suppress(FileNotFoundError):  # the command that works there has just ended
            if path.stat().st_mtime < oldest:
                shutil.rmtree(path)
                left.append(path)
    for model in {path.parent for path in left} - {root}:
        with suppress(OSError):  # it has versions
            model.rmdir()
    return left
