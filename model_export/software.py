"""Which software made something: its commit and the versions of what it computes with."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from service.runtime.build import this_build
from service.runtime.machine import versions

PACKAGES = ("torch", "onnx", "onnxscript", "numpy", "pillow", "resnet-service")
GIT_SECONDS = 10.0


def tool_versions() -> dict[str, str]:
    """Versions of Python and of the packages that decide what is computed, by name."""
    build = this_build()
    return {"python": build.python, "onnxruntime": build.onnxruntime} | versions(PACKAGES)


def commit() -> str | None:
    """The commit of this source; ends in `-dirty` if files were changed after it.

    As the build says (`build.COMMIT`), else as git says of a checkout. None if neither knows.
    """
    return this_build().commit or _checked_out(Path(__file__).resolve())


def _checked_out(file: Path) -> str | None:
    """The commit of the checkout that a file belongs to; None if git does not know the file, or is not there."""
    if _git(file.parent, "ls-files", "--error-unmatch", "--", file.name) is None:  # an environment within some checkout
        return None
    return _git(file.parent, "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*")


def _git(folder: Path, *arguments: str) -> str | None:
    """What git prints; None if it fails."""
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments],
            env={**os.environ, "GIT_OPTIONAL_LOCKS": "0"},
            capture_output=True,
            text=True,
            timeout=GIT_SECONDS,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
