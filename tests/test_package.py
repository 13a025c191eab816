"""The wheel, installed: it is complete, its commands start anywhere, and it notices another `service` over its own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from zipfile import ZipFile

import pytest

from resnet_commands import SCRIPTS

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.slow,  # builds the wheel
    pytest.mark.skipif(os.name != "posix", reason="the folders of a venv differ"),
]

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


@dataclass(frozen=True)
class Installed:
    """The wheel, and a virtual environment that holds it and, by a path file, the packages of this one."""

    wheel: Path
    environment: Path

    @property
    def packages(self) -> Path:
        return Path(
            sysconfig.get_path("purelib", "venv", {"base": str(self.environment), "platbase": str(self.environment)})
        )

    def run(self, command: str, *arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        return subprocess.run(
            [self.environment / "bin" / command, *arguments],
            cwd=cwd,
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
        )


def pip(*arguments: object, cwd: Path) -> None:
    """Without an index: what it needs is here."""
    command = [sys.executable, "-m", "pip", *map(str, arguments)]
    finished = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=200)
    assert finished.returncode == 0, finished.stdout + finished.stderr


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    folder = tmp_path_factory.mktemp("package")
    source = folder / "source"  # a copy: building leaves files in the source
    ignored = shutil.ignore_patterns("__pycache__", "*.so")
    for name in ("service", "model_export"):
        shutil.copytree(ROOT / name, source / name, ignore=ignored)
    for name in ("resnet_commands.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    pip("wheel", "--no-index", "--no-deps", "--no-build-isolation", "--wheel-dir", folder, source, cwd=folder)
    (wheel,) = folder.glob("*.whl")
    venv = folder / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", venv], check=True, timeout=100)
    pip("--python", venv, "install", "--no-index", "--no-deps", wheel, cwd=folder)
    made = Installed(wheel, venv)
    paths = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    (made.packages / "here.pth").write_text("".join(f"{path}\n" for path in paths))
    return made


@pytest.fixture
def theirs(tmp_path: Path) -> Path:
    """A folder that holds a package `service` of the user's."""
    (tmp_path / "service").mkdir()
    (tmp_path / "service" / "__init__.py").write_text("raise ImportError('of the user')\n")
    return tmp_path


def test_the_wheel_holds_every_file(installed: Installed) -> None:
    names = set(ZipFile(installed.wheel).namelist())
    tracked = {
        str(path.relative_to(ROOT))
        for package in ("service", "model_export")
        for path in (ROOT / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts and path.suffix != ".so"
    }
    assert {"service/py.typed", "model_export/py.typed", "service/static/swagger-ui.css"} < tracked
    assert tracked - names == set()
    assert "resnet_commands.py" in names


@pytest.mark.skipif(
    not shutil.which("cc") or not Path(sysconfig.get_path("include"), "Python.h").exists(),
    reason="no C compiler, or no headers of Python",
)
def test_the_wheel_holds_the_compiled_resize_for_every_python(installed: Installed, tmp_path: Path) -> None:
    assert "-cp311-abi3-" in installed.wheel.name
    program = "from service.runtime.images import _resample; print(_resample.__file__)"
    finished = installed.run("python", "-c", program, cwd=tmp_path)
    assert finished.stdout.strip() == str(installed.packages / "service/runtime/images/_resample.abi3.so")


@pytest.mark.parametrize("script", SCRIPTS)
def test_commands_start_anywhere(script: str, installed: Installed, theirs: Path) -> None:
    (theirs / "empty").mkdir()
    for folder in (theirs / "empty", theirs):
        finished = installed.run(script, "--version", cwd=folder)
        assert finished.stdout.startswith(f"resnet-service {PROJECT['version']}, onnxruntime "), finished.stderr
        usage = installed.run(script, "--help", cwd=folder)
        assert usage.stdout.startswith(f"usage: {script} "), usage.stderr


def test_every_command_is_tested() -> None:
    assert set(PROJECT["scripts"]) == set(SCRIPTS)


def test_a_folder_called_service_keeps_python_m_from_starting(installed: Installed, theirs: Path) -> None:
    """What the documentation says of it."""
    assert "of the user" in installed.run("python", "-m", "service", "--version", cwd=theirs).stderr
    assert installed.run("python", "-P", "-m", "service", "--version", cwd=theirs).returncode == 0


@pytest.fixture
def overwritten(installed: Installed) -> Iterator[Path]:
    """The file that PyPI's package `service` has installed over ours, and its metadata."""
    init = installed.packages / "service" / "__init__.py"
    metadata = installed.packages / "service-0.6.0.dist-info"
    ours = init.read_bytes()
    try:
        init.write_text("")
        metadata.mkdir()
        (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: service\nVersion: 0.6.0\n")
        (metadata / "top_level.txt").write_text("service\n")
        yield init
    finally:
        init.write_bytes(ours)
        shutil.rmtree(metadata, ignore_errors=True)


MODULES = [("python", "-m", "service"), ("python", "-m", "model_export")]
STARTS = [("resnet",), ("resnet-service",), ("resnet-export",), *MODULES]


@pytest.mark.parametrize("command", STARTS, ids=" ".join)
def test_another_package_over_it_is_named(
    command: tuple[str, ...], installed: Installed, overwritten: Path, tmp_path: Path
) -> None:
    finished = installed.run(*command, "--version", cwd=tmp_path)
    assert finished.returncode == 2
    assert finished.stderr.startswith(f"error: {overwritten} has been replaced by that of the package service, ")


@pytest.mark.parametrize("command", STARTS, ids=" ".join)
def test_what_its_removal_leaves_is_named(
    command: tuple[str, ...], installed: Installed, overwritten: Path, tmp_path: Path
) -> None:
    overwritten.unlink()
    finished = installed.run(*command, "--version", cwd=tmp_path)
    assert finished.returncode == 2
    assert finished.stderr.startswith(f"error: {overwritten} is missing (uninstalling another package `service` ")
