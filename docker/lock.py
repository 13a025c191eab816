"""Writes docker/constraints.txt (the installed versions) and constraints-cuda.txt (those of the `cuda` extra)."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

HEADER = """\
# Versions that are tested together, for `make` and for the images. Written by `make lock`.
"""
CUDA = "onnxruntime-gpu[cuda,cudnn]"


def installed() -> dict[str, str]:
    """Installed versions by package name, without this project and without local parts (2.13.0 for 2.13.0+cpu)."""
    listing = subprocess.check_output([sys.executable, "-m", "pip", "list", "--format=json", "--exclude-editable"])
    return {entry["name"].lower(): entry["version"].partition("+")[0] for entry in json.loads(listing)}


def cuda_versions(onnxruntime: str) -> dict[str, str]:
    """The packages that pip would install for CUDA, by name."""
    wanted = f"{CUDA}=={onnxruntime}"
    report = subprocess.check_output(
        [sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--ignore-installed", "--report", "-", wanted]
    )
    names = {entry["metadata"]["name"].lower(): entry["metadata"]["version"] for entry in json.loads(report)["install"]}
    return {name: version for name, version in names.items() if name.startswith(("nvidia-", "onnxruntime-gpu"))}


def write(name: str, versions: dict[str, str]) -> None:
    """Writes a constraints file beside this one."""
    lines = [f"{package}=={version}\n" for package, version in sorted(versions.items())]
    Path(__file__).with_name(name).write_text(HEADER + "".join(lines))


if __name__ == "__main__":
    versions = installed()
    for bootstrap in ("pip", "setuptools"):
        versions.pop(bootstrap, None)
    write("constraints.txt", versions)
    # In a file of its own, because torch's CUDA build pins other versions of the same libraries.
    write("constraints-cuda.txt", cuda_versions(versions["onnxruntime"]))
