"""Writes docker/constraints.txt, the versions installed now, and constraints-cuda.txt, what the `cuda` extra adds."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

HEADER = """\
# The versions that are tested together, for `make` and the images alike. Written by `make lock`.
"""
CUDA = "onnxruntime-gpu[cuda,cudnn]"


def installed() -> dict[str, str]:
    """Name to version, without this project and without the local parts of versions (2.13.0+cpu is 2.13.0)."""
    listing = subprocess.check_output([sys.executable, "-m", "pip", "list", "--format=json", "--exclude-editable"])
    return {entry["name"].lower(): entry["version"].partition("+")[0] for entry in json.loads(listing)}


def cuda_versions(onnxruntime: str) -> dict[str, str]:
    """What pip would install for CUDA."""
    wanted = f"{CUDA}=={onnxruntime}"
    report = subprocess.check_output(
        [sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--ignore-installed", "--report", "-", wanted]
    )
    names = {entry["metadata"]["name"].lower(): entry["metadata"]["version"] for entry in json.loads(report)["install"]}
    return {name: version for name, version in names.items() if name.startswith(("nvidia-", "onnxruntime-gpu"))}


def write(name: str, versions: dict[str, str]) -> None:
    lines = [f"{package}=={version}\n" for package, version in sorted(versions.items())]
    Path(__file__).with_name(name).write_text(HEADER + "".join(lines))


if __name__ == "__main__":
    versions = installed()
    for bootstrap in ("pip", "setuptools"):
        versions.pop(bootstrap, None)
    write("constraints.txt", versions)
    # Apart from the others, because torch's own CUDA build pins other versions of the same libraries.
    write("constraints-cuda.txt", cuda_versions(versions["onnxruntime"]))
