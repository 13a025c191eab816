"""The machine and the software behind a result, and saving results with them."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

from service.runtime.disk import write_atomically
from service.runtime.machine import cpu_flags, processor, usable_cores, versions

RESULTS = Path(__file__).parent / "results"

PACKAGES = ("onnxruntime", "onnxruntime-ep-openvino", "onnxruntime-gpu", "torch", "pillow", "uvicorn", "fastapi")
INSTRUCTIONS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8")  # those that speed depends on


def describe() -> dict[str, str]:
    """The date, the machine, and the versions of the software that speed depends on."""
    flags = cpu_flags()
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "cpu": processor(),
        "cores": str(usable_cores()),
        "instructions": " ".join(name for name in INSTRUCTIONS if name in flags),
        "system": platform.platform(),
        "python": platform.python_version(),
        **versions(PACKAGES),
    }


def heading(machine: Mapping[str, str]) -> str:
    """One line for each entry of `describe`, to print above a table."""
    return "\n".join(f"{name}: {value}" for name, value in machine.items())


def save(path: Path, **content: object) -> None:
    """Writes results as JSON. A process that is killed meanwhile leaves no half-written file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, (json.dumps(content, indent=1) + "\n").encode())
