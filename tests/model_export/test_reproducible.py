"""Identical runs give identical files: in processes of their own, with other hash seeds, in other folders."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from service.runtime.build import COMMIT
from service.runtime.model_folder import read_card, sha256

CLASSES = "side=32,classes=circle+ring"
COMMANDS = [
    f"train --data drawings:train=48,val=24,{CLASSES} --recipe paper-cifar --depth 8 --epochs 2 --batch-size 16 "
    "--device cpu --precision fp32 --workers 0 --seed 3 --out run",
    "export --weights run/best.safetensors --name small",
    f"quantize small --data drawings:train=32,val=100,{CLASSES} --images 16 --limit 100",
    f"quantize small --data drawings:train=32,val=100,{CLASSES} --precision fp16 --limit 100",
]
RUN_ALL = """
import sys
from model_export.__main__ import main

for command in sys.argv[1:]:
    if status := main(command.split()):
        sys.exit(status)
"""


@pytest.mark.slow
def test_training_export_and_quantisation(tmp_path: Path) -> None:
    for number in (1, 2):
        folder = tmp_path / f"run {number}"
        folder.mkdir()
        done = subprocess.run(
            [sys.executable, "-c", RUN_ALL, *COMMANDS],
            cwd=folder,
            env={**os.environ, "PYTHONHASHSEED": str(number), COMMIT: "abc123"},
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stderr
    first, second = (tmp_path / f"run {number}" for number in (1, 2))
    files = [
        path.relative_to(first)
        for pattern in ("run/*.safetensors", "models/small/*/*.onnx", "models/small/*/*.npz")
        for path in sorted(first.glob(pattern))
    ]
    names = {path.name for path in files}
    assert names >= {"best.safetensors", "model.onnx", "model.int8.onnx", "model.fp16.onnx", "self_test.npz"}
    assert {str(path): sha256(first / path) for path in files} == {str(path): sha256(second / path) for path in files}

    for version in (1, 2, 3):  # nor do the cards differ, but for their date
        ours, theirs = (
            read_card(folder / "models" / "small" / str(version)).model_dump(exclude={"created"})
            for folder in (first, second)
        )
        assert ours == theirs
        assert (ours["commit"], ours["training"]["commit"], ours["training"]["seed"]) == ("abc123", "abc123", 3)
        assert ours["training"]["recipe"]["epochs"] == 2
