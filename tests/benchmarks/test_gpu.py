"""The GPU benchmark where there is no GPU: all of it on the CPU, and what is left against stand-ins."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks import gpu, models
from benchmarks.gpu import Plan, compile_for, compile_note, engine_table, library_folders
from service.card import ModelCard
from service.providers import ProviderUnavailable

PLAN = Plan(
    device="cpu",
    depth=18,
    batch_sizes=(1, 2),
    compile="max-autotune",
    workers=(1,),
    connections=(2,),
    rounds=1,
    seconds=0.1,
    load_seconds=1,
)


@pytest.mark.e2e
def test_the_whole_on_a_cpu(
    models_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With a load of our own, as on a machine without wrk; the model gets the fp16 file that a GPU needs."""
    root, path = tmp_path / "models", tmp_path / "gpu.json"
    shutil.copytree(models_dir / "resnet18", root / "resnet18")
    monkeypatch.setattr(models, "CACHE", root)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    command = (
        "--device cpu --depth 18 --batch-sizes 1 2 --compile none --workers 1 2 --connections 2 4 --rounds 1 "
        f"--seconds 0.1 --load-seconds 1 --json {path}"
    )
    gpu.main(command.split())

    assert "fp16" in ModelCard.read(root / "resnet18" / "2").files
    results = json.loads(path.read_text())
    assert results["machine"]["load"] == "ours"
    assert results["plan"]["batch_sizes"] == [1, 2]
    cases = [(row["workers"], row["connections"]) for row in results["http"]]
    assert cases == [(1, 2), (1, 4), (2, 2), (2, 4)]
    for row in results["http"]:
        rate, capacity, ratio = (row[name]["median"] for name in ("images_per_second", "decode_capacity", "ratio"))
        assert ratio == pytest.approx(rate / capacity)
        assert row["cpu_ms"]["median"] > 0
    names = {row["name"] for row in results["engines"]}
    assert names == {"engine", "PyTorch eager", "PyTorch eager, images on the device"}
    for row in results["engines"]:
        assert set(row["images_per_second"]) == {"1", "2"}
        assert all(rate["lowest"] > 0 for rate in row["images_per_second"].values())
    assert results["compiled"] == {"mode": "none", "seconds": results["compiled"]["seconds"], "failed": {}}
    printed = capsys.readouterr().out
    assert "| 2 | 4 | " in printed
    assert "| engine ÷ PyTorch eager | fp32 | |" in printed
    assert "PyTorch not compiled" in printed

    gpu.model_folder(18)
    assert not (root / "resnet18" / "3").exists()  # found, not made again


@pytest.mark.parametrize(
    ("broken", "mode", "note"),
    [
        ((), "max-autotune", "PyTorch compiled in mode max-autotune, in 2 s"),
        (
            ("max-autotune",),
            "default",
            "PyTorch compiled in mode default, in 2 s; max-autotune failed: RuntimeError: no compiler",
        ),
        (
            ("max-autotune", "default"),
            "none",
            "PyTorch not compiled; max-autotune failed: RuntimeError: no compiler; "
            "default failed: RuntimeError: no compiler",
        ),
    ],
)
def test_where_a_mode_does_not_compile_the_default_one_is_taken_and_the_results_say_so(
    broken: tuple[str, ...], mode: str, note: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    shapes: list[tuple[int, ...]] = []

    def compiler(forward: Callable[..., torch.Tensor], *, mode: str, fullgraph: bool, dynamic: bool) -> object:
        def compiled(images: torch.Tensor) -> torch.Tensor:
            if mode in broken:
                raise RuntimeError("no compiler\nand a long story")
            shapes.append(tuple(images.shape))
            return forward(images)

        return compiled

    monkeypatch.setattr(torch, "compile", compiler)
    found = compile_for(lambda images: images, PLAN, np.zeros((3, 4, 4), np.uint8))
    assert found.mode == mode
    assert (found.forward is None) == (mode == "none")
    assert set(shapes) == (set() if mode == "none" else {(1, 3, 4, 4), (2, 3, 4, 4)})
    assert compile_note(found._replace(seconds=2)._asdict()) == note


def test_the_engine_is_compared_in_pytorchs_precision_with_all_its_lanes_busy() -> None:
    def row(name: str, precision: str, callers: int, rate: float) -> dict[str, Any]:
        rates = {"64": {"median": rate, "lowest": rate - 1, "highest": rate + 1}}
        return {"name": name, "precision": precision, "callers": callers, "images_per_second": rates}

    rows = [
        row("engine", "fp32", 2, 10),
        row("engine", "fp16", 1, 20),
        row("engine", "fp16", 2, 30),
        row("PyTorch compiled", "fp16", 1, 25),
    ]
    lines = engine_table(rows).splitlines()
    assert lines[0] == "| images/s in batches of | precision | callers | 64 |"
    assert lines[4] == "| engine | fp16 | 2 | 30 (29–31) |"
    assert lines[6:] == ["| engine ÷ PyTorch compiled | fp16 | | 1.20 |"]


def test_without_a_gpu_one_sentence_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit, match=r"^error: PyTorch .* sees no GPU: run this where `nvidia-smi` shows one"):
        gpu.main([])
    assert capsys.readouterr().out == ""


def test_without_cuda_in_onnx_runtime_one_sentence_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    def require(provider: str) -> None:
        raise ProviderUnavailable("install the `cuda` extra")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(gpu, "require", require)
    with pytest.raises(SystemExit, match=r"^error: install the `cuda` extra$"):
        gpu.main([])


def test_the_service_is_told_where_pytorch_has_cuda_from() -> None:
    maps = """\
7f00-7f01 r-xp 00000000 fe:00 1 /usr/lib/x86_64-linux-gnu/libc.so.6
7f01-7f02 r--p 00000000 fe:00 2                          /site-packages/nvidia/cu13/lib/libcudart.so.13
7f02-7f03 r-xp 00001000 fe:00 2                          /site-packages/nvidia/cu13/lib/libcudart.so.13
7f03-7f04 r-xp 00000000 fe:00 3                          /site packages/nvidia/cudnn/lib/libcudnn.so.9
7f04-7f05 rw-p 00000000 00:00 0
7f05-7f06 rw-p 00000000 00:00 0                          [stack]
"""
    assert library_folders(maps) == ["/site packages/nvidia/cudnn/lib", "/site-packages/nvidia/cu13/lib"]
