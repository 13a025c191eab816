"""The architecture's arrows: who may import whom."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

# module of service -> the modules of service it may import
ARROWS = {
    "__init__": set(),
    "card": set(),
    "errors": set(),
    "batching": set(),
    "metrics": set(),
    "cuda": set(),
    "providers": {"cuda"},
    "settings": {"providers"},
    "formats": set(),
    "imaging": {"card", "errors", "formats", "_resample"},
    "_resample": set(),
    "tuning": set(),
    "engine": {"card", "providers", "tuning"},
    "loading": {"card", "engine", "providers", "tuning"},
    "repository": {"card", "errors", "providers", "engine", "loading", "tuning"},
    "inference": {"batching", "metrics", "repository", "settings", "tuning"},
    "classifier": {"errors", "imaging", "inference", "metrics", "repository", "settings"},
    "api": {
        "api",
        "card",
        "classifier",
        "engine",
        "errors",
        "formats",
        "metrics",
        "providers",
        "repository",
        "settings",
        "tuning",
    },
    "protocol": {"errors"},
    "server": {"app", "inference", "protocol", "settings"},
    "ports": set(),
    "workers": {"workers", "batching", "engine", "inference", "metrics", "ports", "repository", "server", "settings"},
    "app": {"api", "classifier", "inference", "metrics", "repository", "settings"},
    "__main__": {"ports", "repository", "server", "settings", "workers"},
}
CONTRACT = {
    "card",
    "formats",
    "imaging",
    "engine",
    "loading",
    "providers",
    "errors",
}  # what model_export may use of service


def imports(path: Path) -> set[str]:
    """Dotted names of the modules that a file imports."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports hide the arrows"
            found |= {f"{node.module}.{alias.name}" for alias in node.names} if node.module else set()
    return found


def of_package(names: set[str], package: str) -> set[str]:
    return {name.split(".")[1] for name in names if name.startswith(f"{package}.")}


@pytest.mark.parametrize("path", sorted((ROOT / "service").rglob("*.py")), ids=lambda p: str(p.relative_to(ROOT)))
def test_service_imports_only_along_the_arrows(path: Path) -> None:
    layer = path.relative_to(ROOT / "service").parts[0].removesuffix(".py")
    assert of_package(imports(path), "service") <= ARROWS[layer]
    assert not of_package(imports(path), "model_export")


@pytest.mark.parametrize("path", sorted((ROOT / "model_export").rglob("*.py")), ids=lambda p: p.name)
def test_model_export_uses_only_the_contract(path: Path) -> None:
    assert of_package(imports(path), "service") <= CONTRACT


# part of model_export -> the parts it may import; single modules are free to use each other
PARTS = {
    "datasets": {"datasets"},
    "evaluation": {"evaluation", "datasets"},
    "quantise": {"quantise", "evaluation", "datasets"},
    "training": {"training", "datasets"},
    "report": {"report", "evaluation", "training", "datasets"},
    "studies": {"studies", "report", "evaluation", "training", "datasets"},
    "cli": {"cli", "quantise", "studies", "report", "evaluation", "training", "datasets"},
}


@pytest.mark.parametrize("part", PARTS)
def test_the_parts_of_model_export_import_only_along_the_arrows(part: str) -> None:
    for path in (ROOT / "model_export" / part).glob("*.py"):
        assert of_package(imports(path), "model_export") & PARTS.keys() <= PARTS[part], path


def test_arrows_make_no_circle() -> None:
    done: set[str] = set()
    while left := ARROWS.keys() - done:
        free = {layer for layer in left if ARROWS[layer] - {layer} <= done}
        assert free, f"a circle among {sorted(left)}"
        done |= free


def test_the_service_never_imports_torch(models_dir: Path) -> None:
    program = f"""
import asyncio, sys
from pathlib import Path
from service.app import create_app
from service.settings import Settings
from starlette.testclient import TestClient
with TestClient(create_app(Settings(models_dir=Path({str(models_dir)!r}), provider="cpu", max_batch=1))) as client:
    while client.get("/healthz/ready").status_code != 200: pass
assert "onnxruntime" in sys.modules
print(sorted(name for name in sys.modules if name.split(".")[0] in ("torch", "onnx", "model_export")))
"""
    finished = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert finished.stdout.strip() == "[]"
