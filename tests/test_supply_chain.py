"""What the images install: every package pinned, by hash; and the bill of materials of it."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
import tomllib
from importlib.metadata import requires, version
from pathlib import Path
from types import ModuleType

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
DOCKERFILE = (ROOT / "Dockerfile").read_text()
PIN = re.compile(r"^(\S+)==(\S+?)(?: ;.*?)?((?: \\\n    --hash=sha256:[0-9a-f]{64})+)$", re.M)


def lock() -> ModuleType:
    spec = importlib.util.spec_from_file_location("lock", ROOT / "docker" / "lock.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


EXTRAS: dict[str, tuple[str, ...]] = lock().EXTRAS


def pinned(*names: str) -> dict[str, str]:
    """Versions by package name, in requirements files whose every line was understood."""
    pins: dict[str, str] = {}
    for name in names:
        text = (ROOT / "docker" / f"requirements-{name}.txt").read_text()
        assert re.sub(r"^#.*\n", "", PIN.sub("", text), flags=re.M).strip() == "", name
        pins |= {package: number for package, number, _ in PIN.findall(text)}
    return pins


def requirements(package: str, extra: str) -> list[str]:
    """What a package needs with an extra, as it is installed here; of this project, as pyproject.toml says."""
    if package != PROJECT["name"]:
        return requires(package) or []
    optional: dict[str, list[str]] = PROJECT["optional-dependencies"]
    return optional[extra] if extra else list(PROJECT["dependencies"])


def needed(extras: tuple[str, ...]) -> set[str]:
    """The packages that these extras of the project install here."""
    found: set[str] = set()
    waiting = [(PROJECT["name"], extra) for extra in ("", *extras)]
    seen = set(waiting)
    while waiting:
        name, extra = waiting.pop()
        for requirement in map(Requirement, requirements(name, extra)):
            if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
                found.add(canonicalize_name(requirement.name))
                new = {(requirement.name, more) for more in ("", *requirement.extras)} - seen
                waiting += new
                seen |= new
    return found - {PROJECT["name"]}


@pytest.mark.parametrize(
    ("files", "extras"), [(("service",), EXTRAS["service"]), (("export", "torch", "torch-cuda"), EXTRAS["export"])]
)
def test_every_package_of_an_image_is_pinned_as_it_is_installed_here(
    files: tuple[str, ...], extras: tuple[str, ...]
) -> None:
    """Whether torch is built for CUDA here or not."""
    packages = needed(extras) - {"setuptools"}  # which `make lock` does not pin for `make`
    assert len(packages) > 20
    pins = pinned(*files)
    assert {name: pins.get(name) for name in packages} == {name: version(name).partition("+")[0] for name in packages}


def test_the_gpu_image_has_the_server_of_the_other_one_and_cuda() -> None:
    cpu, cuda = pinned("service"), pinned("service-cuda")
    assert {name for name in cpu if name not in cuda} == {"onnxruntime", "onnxruntime-ep-openvino"}
    assert {name: cuda[name] for name in cpu if name in cuda} == {name: cpu[name] for name in cpu if name in cuda}
    assert all(name.startswith(("nvidia-", "onnxruntime-gpu")) for name in cuda if name not in cpu)
    assert cuda["onnxruntime-gpu"] == cpu["onnxruntime"]


def test_constraints_and_requirements_pin_the_same_versions() -> None:
    lines = (ROOT / "docker/constraints.txt").read_text().splitlines()
    constraints = {
        canonicalize_name(line.partition("==")[0]): line.partition("==")[2] for line in lines if "==" in line
    }
    for files in (("service",), ("service-cuda",), ("export", "torch")):
        pins = pinned(*files)
        assert {name: pins[name] for name in pins if name in constraints} == {
            name: constraints[name] for name in pins if name in constraints
        }


def test_images_install_nothing_without_a_hash() -> None:
    assert "ENV PIP_REQUIRE_HASHES=1 PIP_ONLY_BINARY=:all:" in DOCKERFILE
    installs = re.findall(r"(PIP_REQUIRE_HASHES= )?pip (?:--python /venv )?(?:install|wheel) ([^\n]*)", DOCKERFILE)
    assert len(installs) > 8
    for unhashed, arguments in installs:
        if unhashed:  # the project itself
            assert "--no-deps" in arguments
            assert "--no-index" in arguments or "--no-build-isolation" in arguments
        else:
            for file in re.findall(r"--requirement (\S+)", arguments):
                assert (ROOT / "docker" / file).exists()
            assert "--requirement" in arguments
    assert set(re.findall(r"requirements-([a-z-]+)\.txt", DOCKERFILE)) == {*EXTRAS, "build", "torch", "torch-cuda"}


@pytest.mark.slow
def test_the_bill_of_materials_lists_what_the_image_holds() -> None:
    subprocess.run(["make", "sbom", f"VENV={sys.prefix}", "--assume-old=install"], cwd=ROOT, check=True)
    text = (ROOT / "build/sbom.json").read_text()
    bill = json.loads(text)
    assert JsonStrictValidator(SchemaVersion.from_version(bill["specVersion"])).validate_str(text) is None
    assert bill["metadata"]["component"]["name"] == PROJECT["name"]
    listed = {canonicalize_name(part["name"]): part["version"] for part in bill["components"]}
    pins = pinned("service")
    here = needed(EXTRAS["service"])
    assert listed == {name: pins[name] for name in pins if name in here}
