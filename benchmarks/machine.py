"""What every result must say: the hardware, the versions, when."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import re
from datetime import UTC, datetime
from pathlib import Path

PACKAGES = ("onnxruntime", "onnxruntime-ep-openvino", "onnxruntime-gpu", "torch", "pillow", "uvicorn", "fastapi")


def describe() -> dict[str, str]:
    """The machine and the software of this run."""
    cpuinfo = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    name = re.search(r"model name\s*: (.*)", cpuinfo)
    flags = set(cpuinfo.split())
    known = [
        flag for flag in ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8") if flag in flags
    ]
    found = {"date": datetime.now(UTC).date().isoformat(), "cpu": name[1] if name else platform.processor()}
    found |= {"cores": str(len(os.sched_getaffinity(0))), "instructions": " ".join(known)}
    found |= {"system": platform.platform(), "python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def save(path: Path, **content: object) -> None:
    """Writes results, and what they were measured on, as JSON: all of it or, where the process is killed, nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(json.dumps(content, indent=1) + "\n")
    partial.replace(path)
