"""Temporary folders in a model folder, of commands that were killed before they could remove them."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

PATTERNS = (".staging-*", ".removed-*")  # versions on their way in, and on their way out
AGE_S = 24 * 3600.0  # no command works on one version for so long


def remove_leftovers(folder: Path) -> list[Path]:
    """Removes temporary folders in which nothing has changed for a day. Returns their paths.

    Raises:
        OSError: one cannot be removed.
    """
    oldest = time.time() - AGE_S
    left = [path for pattern in PATTERNS for path in folder.glob(pattern) if path.stat().st_mtime < oldest]
    for path in left:
        shutil.rmtree(path)
    return left
