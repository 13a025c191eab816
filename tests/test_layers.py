"""The architecture's arrows: who may import whom."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MOST_LINES = 300

# A module or package of service.runtime -> those of service.runtime that it may import.
RUNTIME = {
    "__init__": set(),
    "build": set(),
    "disk": set(),
    "progress": set(),
    "choices": set(),
    "faults": set(),
    "graph": set(),
    "control_groups": set(),
    "machine": {"control_groups"},
    "card_part": set(),
    "measured": {"card_part", "choices"},
    "head": {"card_part", "measured"},
    "scores": {"head"},
    "cuda": set(),
    "openvino": set(),
    "preprocessing": {"card_part"},
    "model_card": {"card_part", "choices", "graph", "head", "measured", "preprocessing"},
    "model_folder": {"choices", "model_card"},
    "model_state": {"model_folder"},
    "state_changes": {"disk", "model_state"},
    "images": {"faults", "preprocessing"},
    "providers": {"choices", "cuda", "graph", "machine", "openvino"},
    "self_test": {"choices", "model_folder"},
    "class_activation": {"model_card", "model_folder"},
    "tuning": {"choices"},
    "engine": {"choices", "graph", "images", "providers", "self_test", "tuning"},
    "gpu": {"cuda", "images", "preprocessing", "providers"},
    "static_engine": {"engine", "gpu", "graph", "images", "providers"},
    "placement": {"choices", "engine", "gpu", "model_card", "model_folder", "providers", "static_engine"},
    "turns": set(),
    "tuning_keys": {"choices", "machine", "model_card", "placement", "providers"},
    "loading": {
        *("choices", "engine", "gpu", "model_card", "placement", "providers", "self_test", "tuning", "tuning_keys"),
        "turns",
    },
}

# A module or package of service -> those of service that it may import, besides service.runtime.
SERVICE = {
    "__init__": set(),
    "settings_addresses": set(),
    "batch_sizes": set(),
    "rates": set(),
    "threads": set(),
    "tracing": set(),
    "batching": {"batch_sizes", "rates", "tracing"},
    "errors": set(),
    "json_faults": {"errors"},
    "upload_faults": set(),
    "deadline": {"errors"},
    "settings_buckets": set(),
    "settings_lists": set(),
    "counter_files": set(),
    "shared_exemplars": {"counter_files"},
    "metrics": {"counter_files", "settings_buckets", "shared_exemplars"},
    "image_metrics": {"metrics", "tracing"},
    "operating_state": set(),
    "answers": {"metrics"},
    "sockets": set(),
    "tls": set(),
    "allowance": {"errors"},
    "keys": {"allowance"},
    "settings_memory": set(),
    "request_ids": set(),
    "logs": {"request_ids", "tracing"},
    "failed_images": {"errors", "model_repository", "request_ids"},
    "settings": {"logs", "settings_addresses", "settings_buckets", "settings_lists", "settings_memory"},
    "settings_help": {"settings"},
    "settings_sources": {"settings", "settings_help"},
    "references": set(),
    "published": {"references", "settings"},
    "fetch": {"references", "settings_lists"},
    "model_repository": {"errors", "published", "references", "settings"},
    "backend": {"batching", "model_repository", "published"},
    "lifecycle": {"backend", "errors", "model_repository", "published"},
    "watchdog": {"backend", "hard_end"},
    "decoders": {"errors", "rates", "upload_faults"},
    "local_runner": {"backend", "batch_sizes", "batching", "metrics", "model_repository", "tracing"},
    "local_backend": {"backend", "local_runner", "metrics", "model_repository", "published", "settings", "tracing"},
    "admission": {"backend", "deadline", "decoders", "errors", "metrics"},
    "drawing": {"decoders", "jobs"},
    "jobs": {"backend", "batching", "deadline", "decoders", "errors", "metrics", "request_ids", "tracing"},
    "pipeline": {
        "admission",
        "answers",
        "backend",
        "batching",
        "deadline",
        "decoders",
        "drawing",
        "image_metrics",
        "jobs",
        "metrics",
        "model_repository",
        "settings",
        "settings_memory",
        "upload_faults",
    },
    "redaction": set(),
    "open_inference": {
        "admission",
        "answers",
        "deadline",
        "errors",
        "failed_images",
        "lifecycle",
        "metrics",
        "model_repository",
        "pipeline",
        "redaction",
        "settings",
    },
    "predictions": set(),
    "bench": set(),
    "bulk": {
        *("admission", "answers", "api", "backend", "deadline", "decoders", "errors", "lifecycle", "local_backend"),
        *("client", "logs", "metrics", "model_repository", "pipeline", "predictions", "settings", "settings_sources"),
        "upload_faults",
    },
    "api": {
        "admission",
        "answers",
        "predictions",
        "deadline",
        "errors",
        "failed_images",
        "json_faults",
        "keys",
        "lifecycle",
        "logs",
        "metrics",
        "pipeline",
        "model_repository",
        "open_inference",
        "redaction",
        "references",
        "request_ids",
        "settings",
        "threads",
        "tracing",
        "upload_faults",
    },
    "grpc_api": {
        *("admission", "api", "closing", "deadline", "errors", "keys", "metrics", "open_inference", "request_ids"),
        *("settings", "tracing"),
    },
    "admin": {"api", "connections", "metrics", "server", "settings", "sockets", "tls", "uvicorn_protocol"},
    "app": {
        "admin",
        "api",
        "backend",
        "closing",
        "decoders",
        "failed_images",
        "grpc_api",
        "lifecycle",
        "local_backend",
        "metrics",
        "open_inference",
        "operating_state",
        "pipeline",
        "model_repository",
        "settings",
        "tracing",
        "watchdog",
    },
    "ray_serve": {"app", "logs", "settings", "settings_sources", "watchdog"},
    "connections": {"metrics"},
    "answer_transport": set(),
    "closing": set(),
    "client": set(),
    "hard_end": set(),
    "refusals": {"api", "errors", "request_ids"},
    "upgrade_offers": set(),
    "uvicorn_protocol": {"answer_transport", "connections", "errors", "refusals", "upgrade_offers"},
    "server": {"closing", "connections", "hard_end", "metrics", "settings", "sockets", "tls", "uvicorn_protocol"},
    "workers": {
        *(
            "admin",
            "app",
            "backend",
            "batching",
            "counter_files",
            "hard_end",
            "keys",
            "lifecycle",
            "local_backend",
            "logs",
            "metrics",
            "request_ids",
            "sockets",
            "model_repository",
            "operating_state",
            "published",
            "server",
            "settings",
            "tracing",
            "watchdog",
        ),
    },
    "__main__": {
        *(
            "app",
            "counter_files",
            "grpc_api",
            "hard_end",
            "keys",
            "logs",
            "metrics",
            "sockets",
            "model_repository",
            "server",
            "settings",
            "settings_sources",
            "tls",
            "tracing",
        ),
        "watchdog",
        "workers",
    },
}

# A room of model_export -> the rooms that it may import. Its single modules (errors, disk, paths, ...) serve them all.
MODEL_EXPORT = {
    "nets": set(),
    "drawings": set(),
    "weights": {"nets", "drawings"},
    "export": {"nets", "drawings", "weights"},
    "datasets": {"drawings", "weights"},
    "training": {"nets", "weights", "datasets", "evaluation"},
    "evaluation": {"weights", "datasets"},
    "quantise": {"export", "datasets", "evaluation"},
    "report": {"weights", "datasets", "training", "evaluation"},
    "studies": {"nets", "drawings", "weights", "export", "datasets", "training", "evaluation", "report"},
    "cli": {"drawings", "weights", "export", "datasets", "training", "evaluation", "quantise", "report", "studies"},
}


def modules(*packages: str) -> list[Path]:
    return sorted(path for package in packages for path in (ROOT / package).rglob("*.py"))


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def imports(path: Path) -> Iterator[str]:
    """Dotted names that a file imports, also inside its functions."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports hide the arrows"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def parts(path: Path, package: str) -> set[str]:
    """The direct children of a package that a file imports."""
    prefix = f"{package}."
    return {found.removeprefix(prefix).split(".")[0] for found in imports(path) if found.startswith(prefix)}


@pytest.mark.parametrize("path", modules("service/runtime"), ids=name)
def test_the_runtime_imports_only_along_the_arrows(path: Path) -> None:
    part = path.relative_to(ROOT / "service" / "runtime").parts[0].removesuffix(".py")
    own = {part} if part in ("images", "gpu") else set()
    assert parts(path, "service.runtime") <= RUNTIME[part] | own
    assert parts(path, "service") <= {"runtime"}
    assert not parts(path, "model_export")


@pytest.mark.parametrize("path", [p for p in modules("service") if "runtime" not in p.parts], ids=name)
def test_the_service_imports_only_along_the_arrows(path: Path) -> None:
    part = path.relative_to(ROOT / "service").parts[0].removesuffix(".py")
    own = (
        {part}
        if part in ("api", "bench", "bulk", "client", "fetch", "grpc_api", "open_inference", "tracing", "workers")
        else set()
    )
    assert parts(path, "service") <= SERVICE[part] | own | {"runtime"}
    assert not parts(path, "model_export")


@pytest.mark.parametrize("path", modules("model_export"), ids=name)
def test_model_export_imports_only_along_the_arrows(path: Path) -> None:
    assert parts(path, "service") <= {"runtime"}
    room = path.relative_to(ROOT / "model_export").parts[0]
    if room in MODEL_EXPORT:
        assert parts(path, "model_export") & MODEL_EXPORT.keys() <= MODEL_EXPORT[room] | {room}


def test_every_arrow_of_the_service_is_used() -> None:
    for folder, package, arrows in (("service", "service", SERVICE), ("service/runtime", "service.runtime", RUNTIME)):
        used: dict[str, set[str]] = {part: set() for part in arrows}
        for path in modules(folder):
            part = path.relative_to(ROOT / folder).parts[0].removesuffix(".py")
            if part in used:
                used[part] |= parts(path, package)
        assert {part: others - used[part] for part, others in arrows.items() if others - used[part]} == {}


@pytest.mark.parametrize("arrows", [RUNTIME, SERVICE, MODEL_EXPORT], ids=["runtime", "service", "model_export"])
def test_the_arrows_make_no_circle(arrows: Mapping[str, set[str]]) -> None:
    done: set[str] = set()
    while left := arrows.keys() - done:
        free = {part for part in left if arrows[part] <= done}
        assert free, f"a circle among {sorted(left)}"
        done |= free


def imported(program: str) -> set[str]:
    """The top-level packages that are loaded after a program has run."""
    program += "\nimport sys; print(*sorted({name.split('.')[0] for name in sys.modules}))"
    finished = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT)
    return set(finished.stdout.split())


SERVER = {"fastapi", "starlette", "uvicorn", "pydantic_settings", "python_multipart", "prometheus_client"}


def test_the_runtime_needs_no_server() -> None:
    names = [name(path).removesuffix(".py").replace("/", ".") for path in modules("service/runtime")]
    loaded = imported(f"import importlib\nfor name in {names}: importlib.import_module(name)")
    assert "onnxruntime" in loaded
    assert not loaded & SERVER


def test_classifying_on_a_server_needs_neither_engine_nor_server() -> None:
    loaded = imported("import service.bulk.command, service.bulk.remote")
    assert "httpx" in loaded
    assert not loaded & {*SERVER, "onnxruntime", "pyarrow", "torch"}


def test_the_settings_need_no_engine() -> None:
    assert not imported("import service.__main__") & {"onnxruntime", "fastapi", "uvicorn", "PIL"}


def test_the_client_needs_neither_server_nor_engine() -> None:
    loaded = imported("import service.client")
    assert "httpx" in loaded
    assert not loaded & (SERVER | {"onnxruntime", "pydantic", "PIL", "numpy"})


@pytest.mark.parametrize("package", ["service.__main__", "service.bulk.command"])
def test_serving_and_classifying_need_no_torch(package: str) -> None:
    assert not imported(f"import {package}") & {"torch", "onnx", "model_export"}


def test_fetching_needs_neither_engine_nor_server() -> None:
    loaded = imported("import service.fetch.command, service.fetch.s3_source, service.fetch.oci_source")
    assert {"httpx", "obstore"} <= loaded
    assert not loaded & {*SERVER, "onnxruntime", "torch"}


def test_the_service_never_imports_torch(tiny_dir: Path) -> None:
    loaded = imported(
        f"""
from pathlib import Path
from service.app import create_app
from service.settings import Settings
from starlette.testclient import TestClient
with TestClient(create_app(Settings(models_dir=Path({str(tiny_dir)!r}), provider="cpu", max_batch=1))) as client:
    while client.get("/healthz/ready").status_code != 200: pass
"""
    )
    assert "onnxruntime" in loaded
    assert not loaded & {"torch", "onnx", "model_export"}


def test_one_module_sets_the_status_of_models() -> None:
    setters = {
        path.stem
        for path in modules("service")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Assign)
        and any(
            isinstance(t, ast.Attribute) and t.attr == "status" and ast.unparse(t) != "self.status"
            for t in node.targets
        )
    }
    assert setters == {"lifecycle"}


@pytest.mark.parametrize("path", modules("service", "model_export"), ids=name)
def test_no_module_is_longer_than_a_reader_takes_in(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= MOST_LINES
