"""Pins what is installed: docker/constraints.txt for `make`, and docker/requirements-*.txt for the images.

The requirements files name every package of an image, its version, and the SHA-256 of each of its files, so that pip
refuses any other file. Versions are those of constraints.txt; where it has none, those of the file as it was.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

HERE = Path(__file__).parent
PYPROJECT = HERE.parent / "pyproject.toml"
CONSTRAINTS = HERE / "constraints.txt"
HEADER = "# Versions that are tested together. Written by `make lock`.\n"
HASHED = "# Every file that pip may install in the images, by its SHA-256. Written by `make lock`.\n"
EXTRAS = {
    "service": ("cpu", "fetch", "grpc", "otel"),
    "service-cuda": ("cuda", "fetch", "gpu-decoding", "grpc", "otel"),
    "export": ("engine", "export"),
}
PYTHON = "3.11"  # of the images; the lower bound elsewhere

# PyTorch's builds without CUDA are in an index of its own: empty for pip's usual sources, as in the Dockerfile.
TORCH_INDEX = os.environ.get("TORCH_INDEX", "https://download.pytorch.org/whl/cpu")
TORCH_PLATFORMS = ("manylinux_2_28_x86_64", "manylinux_2_28_aarch64")
OF_TORCH = re.compile(r"^torch==.*\n(?:    .*\n)+", re.M)
OF_TORCH_CUDA = re.compile(r"^(?:cuda-|nvidia-|triton==).*\n(?:    .*\n)+", re.M)


def installed() -> dict[str, str]:
    """Installed versions by package name, without this project and without local parts (2.13.0 for 2.13.0+cpu)."""
    listing = subprocess.check_output([sys.executable, "-m", "pip", "list", "--format=json", "--exclude-editable"])
    versions = {entry["name"].lower(): entry["version"].partition("+")[0] for entry in json.loads(listing)}
    return {name: version for name, version in versions.items() if name not in ("pip", "setuptools")}


def compiled(name: str, source: Path | str, *options: str) -> str:
    """The packages that `source` needs on any platform, with the hashes of all their files: the text of a requirements
    file. Versions that the present file pins stay.
    """
    out = HERE / f"requirements-{name}.txt"
    command = [sys.executable, "-m", "uv", "pip", "compile", "--quiet", "--universal", "--python-version", PYTHON]
    command += ["--generate-hashes", "--no-header", "--no-annotate", "--constraint", str(CONSTRAINTS)]
    subprocess.run([*command, *options, "--output-file", str(out), str(source)], check=True)
    return out.read_text()


def torch_hashes(version: str) -> set[str]:
    """The hashes of PyTorch's builds without CUDA, for those of our platforms that the index has."""
    found = set()
    for platform in TORCH_PLATFORMS:
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--no-deps", "--report", "-"]
        command += ["--only-binary", ":all:", "--python-version", PYTHON, "--platform", platform]
        command += ["--target", tempfile.gettempdir(), *(("--index-url", TORCH_INDEX) if TORCH_INDEX else ())]
        report = subprocess.run([*command, f"torch=={version}"], stdout=subprocess.PIPE, text=True)
        (file,) = json.loads(report.stdout)["install"] if report.returncode == 0 else (None,)
        if file and file["metadata"]["version"].endswith("+cpu"):
            found.add(file["download_info"]["archive_info"]["hashes"]["sha256"])
        else:
            print(f"no PyTorch without CUDA for {platform}: `export` cannot be built with it there", file=sys.stderr)
    return found


def write(name: str, text: str) -> None:
    (HERE / f"requirements-{name}.txt").write_text(HASHED + text)


def main() -> None:
    versions = installed()
    pins = [f"{package}=={version}\n" for package, version in sorted(versions.items())]
    CONSTRAINTS.write_text(HEADER + "".join(pins))

    backend = HERE / "requirements-build.in"
    backend.write_text("\n".join(tomllib.loads(PYPROJECT.read_text())["build-system"]["requires"]))
    write("build", compiled("build", backend))
    backend.unlink()
    for image, extras in EXTRAS.items():
        text = compiled(image, PYPROJECT, *(option for extra in extras for option in ("--extra", extra)))
        if image == "export":
            # PyTorch has a file of its own, because of its index, and so has what only its CUDA build needs.
            (torch,) = OF_TORCH.findall(text)
            more = [f" \\\n    --hash=sha256:{digest}" for digest in sorted(torch_hashes(versions["torch"]))]
            write("torch", torch.rstrip("\n") + "".join(more) + "\n")
            write("torch-cuda", "".join(OF_TORCH_CUDA.findall(text)))
            text = OF_TORCH.sub("", OF_TORCH_CUDA.sub("", text))
        write(image, text)


if __name__ == "__main__":
    main()
