"""Starts the programs, and says in one sentence what their installation lacks.

The packages of this project are called `service` and `model_export`, names that others use, too. Python may find
another `service` first: a folder beside the script that runs, one on PYTHONPATH, or that of an unrelated package on
PyPI. This module has a name of its own, so it can still say so. It imports nothing outside the standard library.
"""

from __future__ import annotations

import base64
import hashlib
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from importlib.metadata import PackageNotFoundError, distribution, packages_distributions
from importlib.util import find_spec
from pathlib import Path

PROJECT = "resnet-service"
PACKAGES = ("service", "model_export")
SCRIPTS = ("resnet", "resnet-service", "resnet-export")  # [project.scripts] in pyproject.toml
HOME = Path(__file__).resolve().parent  # the packages of this project lie beside this module
EXIT_INCOMPLETE = 2

RUNTIME_EXTRA = "'resnet-service[cpu]', or with [cuda] for NVIDIA GPUs"
EXPORT_EXTRA = "'resnet-service[export]'"
FETCH_EXTRA = "'resnet-service[fetch]'"
EXTRA_OF = {"onnxruntime": RUNTIME_EXTRA, "httpx": "'resnet-service[client]'"}  # modules that one extra is about

# The commands of `resnet` besides those of `model_export`: the package that each one runs, and its help.
COMMANDS = {
    "serve": ("service", "Serve the published models over HTTP."),
    "classify": ("service.bulk", "Classify files, folders and lists of images, here or on a server."),
    "fetch": ("service.fetch", "Copy published models from a bucket, a registry or a folder, and verify them."),
    "bench": ("service.bench", "Measure a server: images per second and latencies under load."),
}
HELP = ("-h", "--help")


def start() -> int:
    """The command `resnet`."""
    if fault := stranger(*PACKAGES):
        return _incomplete(fault)
    command, *arguments = sys.argv[1:] or ["--help"]
    if command in COMMANDS:
        return int(import_module(f"{COMMANDS[command][0]}.__main__").main(arguments))
    if command in HELP:
        print(_usage(), end="")
        return 0
    export = import_module("model_export.__main__")
    if command != "--version" and command not in export.COMMANDS:
        return _incomplete(f"there is no command {command}: `resnet --help` lists them")
    return int(export.main(sys.argv[1:]))


def _usage() -> str:
    export: dict[str, str] = import_module("model_export.__main__").COMMANDS
    commands = {name: text for name, (_, text) in COMMANDS.items()} | export
    listed = "".join(f"  {name:<11} {text}\n" for name, text in commands.items())
    return (
        "usage: resnet COMMAND ...\n\nTrain, export and serve ResNets, and classify images with them.\n\n"
        f"commands:\n{listed}\n`resnet COMMAND --help` explains a command; `resnet --version` names this build.\n"
    )


def start_service() -> int:
    """The command `resnet-service`."""
    return _start("service")


def start_export() -> int:
    """The command `resnet-export`."""
    return _start("service", "model_export")


def _start(*packages: str) -> int:
    """Runs the last of the packages, which needs the others. Returns its exit status, or EXIT_INCOMPLETE."""
    if fault := stranger(*packages):
        return _incomplete(fault)
    return int(import_module(f"{packages[-1]}.__main__").main(sys.argv[1:]))


def run_program(program: Callable[[Sequence[str]], int], arguments: Sequence[str], extra: str, *packages: str) -> int:
    """Runs a program of this project, unless the installation lacks something.

    Args:
        program: returns its exit status.
        extra: what it needs, RUNTIME_EXTRA, EXPORT_EXTRA or FETCH_EXTRA.
        packages: those that it imports, of this project.

    Returns:
        Its exit status, or EXIT_INCOMPLETE after one sentence on stderr.
    """
    fault = stranger(*packages)
    if not fault:
        try:
            return program(arguments)
        except ModuleNotFoundError as error:
            fault = missing(error, extra)
    return _incomplete(fault)


def _incomplete(fault: str) -> int:
    print(f"error: {fault}", file=sys.stderr)
    return EXIT_INCOMPLETE


def called(package: str) -> str:
    """How the user has started a program: `resnet serve`, `resnet-service`, or `python -m service`."""
    name = Path(sys.argv[0]).stem  # on Windows, scripts end in .exe
    if name == "resnet":
        return next((f"resnet {command}" for command, (program, _) in COMMANDS.items() if program == package), name)
    return name if name in SCRIPTS else f"python -m {package}"


def missing(error: ModuleNotFoundError, extra: str) -> str:
    """What to install, in one sentence, when a program of this project cannot import something.

    Args:
        extra: what the program needs, RUNTIME_EXTRA, EXPORT_EXTRA or FETCH_EXTRA.

    Raises:
        ModuleNotFoundError: a module of this project itself is missing.
    """
    name = (error.name or "").partition(".")[0]
    if not name or name in PACKAGES:
        raise error
    if name == PROJECT:  # no metadata: these are files that were never installed
        return f"{PROJECT} is not installed: run pip install '.[cpu]' in {HOME}"
    if name in sys.stdlib_module_names:
        return f"this Python lacks its own module {name}: on Windows, which has none, use WSL 2 or a container"
    return f"{name} is not installed: run pip install {EXTRA_OF.get(name, extra)}"


def stranger(*packages: str) -> str | None:
    """What Python would import in the place of a package of this project, and the remedy, in one sentence.

    Imports none of them. Returns None if they are all this project's.
    """
    again = f"pip install --force-reinstall --no-deps with what you installed {PROJECT} from"
    for name in packages:
        init = HOME / name / "__init__.py"
        spec = find_spec(name)
        folders = [Path(folder).resolve() for folder in (spec and spec.submodule_search_locations) or ()]
        if spec is None or not init.exists():
            return f"{init} is missing (uninstalling another package `{name}` removes it): run {again}"
        if spec.origin is None or init.parent not in folders:
            return (
                f"`import {name}` finds {spec.origin or folders[0]}, which is not part of {PROJECT}: rename that one, "
                "or keep its folder off Python's path (`python -P` leaves out the current folder and the script's; "
                "PYTHONPATH names others)"
            )
        if other := _replaced_by(name):
            return (
                f"{init} has been replaced by that of the package {other}, which has nothing to do with {PROJECT}: "
                f"run pip uninstall {other}, then {again}"
            )
    return None


def _replaced_by(name: str) -> str | None:
    """The installed distribution that has written its own files over a package of this project."""
    try:
        files = distribution(PROJECT).files or []
    except PackageNotFoundError:
        return None
    init = HOME / name / "__init__.py"
    for file in files:
        if file.as_posix() == f"{name}/__init__.py" and Path(str(file.locate())).resolve() == init and file.hash:
            digest = hashlib.new(file.hash.mode, init.read_bytes()).digest()
            if base64.urlsafe_b64encode(digest).decode().rstrip("=") != file.hash.value:
                return next((other for other in packages_distributions().get(name, ()) if other != PROJECT), None)
    return None
