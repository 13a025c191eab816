"""The control groups of this process (Linux, v2 and v1): what they allow, and what they have used."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path, PurePosixPath

ROOT = Path("/sys/fs/cgroup")


def read_each(controller: str, v2: tuple[str, ...], v1: tuple[str, ...]) -> Iterator[list[str]]:
    """What the files of a controller hold, for each group of this process and each of their parents.

    Args:
        controller: its name, such as `cpu`.
        v2, v1: the files in a group of either version.
    """
    try:
        groups = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in groups:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            root, files = ROOT, v2
        elif controller in controllers.split(","):
            root, files = ROOT / controller, v1
        else:
            continue
        group = PurePosixPath(path)
        for ancestor in (group, *group.parents):
            # Some may not exist: a container may see the host's path, but only its own groups below the root.
            with suppress(OSError):
                yield [(root / str(ancestor).lstrip("/") / name).read_text() for name in files]
