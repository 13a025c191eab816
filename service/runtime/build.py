"""Which build of the service this is: on the command line, over HTTP and as a metric."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from typing import NamedTuple

# Either brings the same module.
ONNX_RUNTIMES = ("onnxruntime", "onnxruntime-gpu")
COMMIT = "BUILD_COMMIT"  # an environment variable that the images have; not RESNET_: it is no setting


class Build(NamedTuple):
    """Attributes:
    version: of this project.
    commit: of its source; None if it is not known.
    python: version of the interpreter.
    onnxruntime: its version; empty if it is not installed.
    """

    version: str
    commit: str | None
    python: str
    onnxruntime: str

    def __str__(self) -> str:
        commit = f" ({self.commit})" if self.commit else ""
        engine = f"onnxruntime {self.onnxruntime}" if self.onnxruntime else "no onnxruntime"
        return f"resnet-service {self.version}{commit}, {engine}, Python {self.python}"


def this_build() -> Build:
    """The build that runs."""
    return Build(
        version=version("resnet-service"),
        commit=os.environ.get(COMMIT) or None,
        python=platform.python_version(),
        onnxruntime=" ".join(filter(None, map(_installed, ONNX_RUNTIMES))),
    )


def _installed(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
