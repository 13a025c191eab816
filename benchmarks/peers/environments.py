"""Virtual environments of the peers, made on first use.

All peers get the same NumPy, Pillow and ONNX Runtime, in the versions that our service is tested with, since the
benchmark compares serving layers. All other versions are the peer's own choice, and so are shared packages that its
requirements pin.
"""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
from pathlib import Path

CACHE = Path(".cache/peers")
CONSTRAINTS = Path("docker/constraints.txt")
# What `benchmarks.peers.model` imports, directly and through `service`.
SHARED = ("numpy", "onnxruntime", "onnxruntime-ep-openvino", "pillow", "pydantic")


class EnvironmentFailed(Exception):
    """A peer could not be installed; the message says which tool failed, and why."""


def shared_pins(constraints: str, requirements: str = "") -> list[str]:
    """`name==version` of the shared packages, from the text of a constraints file, but for those that are required."""
    required = {_normal(line.partition("==")[0].strip()) for line in requirements.splitlines()}
    pins = dict(line.split("==") for line in constraints.splitlines() if "==" in line)
    return [f"{name}=={pins[name]}" for name in SHARED if name in pins and name not in required]


def environment(peer: str, requirements: Path, interpreter: str = sys.executable) -> Path:
    """The interpreter of a peer's environment, which is made by this one, anew when its requirements have changed.

    Raises:
        EnvironmentFailed: venv or pip failed.
    """
    folder = (CACHE / peer).absolute()
    python = folder / "bin" / "python"
    pins = shared_pins(CONSTRAINTS.read_text(), requirements.read_text())
    wanted = "\n".join([interpreter, sys.version, requirements.read_text(), *pins])
    fingerprint = hashlib.sha256(wanted.encode()).hexdigest()
    marker = folder / "installed"
    if marker.exists() and marker.read_text() == fingerprint:
        return python
    print(f"{peer}: installing into {folder} ...", file=sys.stderr, flush=True)
    try:
        subprocess.run([interpreter, "-m", "venv", "--clear", str(folder)], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise EnvironmentFailed(f"venv: {error}") from error
    _pip(python, "install", "--requirement", str(requirements), *pins)
    marker.write_text(fingerprint)
    return python


def version(python: Path, package: str) -> str:
    """The version of a package in an environment; `?` if it is not installed."""
    installed = json.loads(_pip(python, "list", "--format=json"))
    by_name = {_normal(entry["name"]): str(entry["version"]) for entry in installed}
    return by_name.get(_normal(package), "?")


def _pip(python: Path, *arguments: str) -> str:
    command = [str(python), "-m", "pip", "--disable-pip-version-check", *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or [done.stderr.strip()]
        raise EnvironmentFailed(f"pip: {errors[-1].removeprefix('ERROR: ')}")
    return done.stdout


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
