"""`python -m model_export verify`."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from model_export.__main__ import main
from model_export.cli import verify
from service.runtime.engine import Engine
from service.runtime.loading import load_engine
from service.runtime.model_card import ModelCard
from tests.support.engines import decodes


def test_a_sound_model(models: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", "--provider", "cpu", "--models-dir", str(models)]) == 0
    assert capsys.readouterr().out == ("resnet8-cifar 1: ok: digests match, and the self-test passes on cpu in fp32\n")


def test_a_damaged_file(models: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = models / "resnet8-cifar" / "1" / "self_test.npz"
    path.write_bytes(path.read_bytes() + b"x")
    assert main(["verify", "--models-dir", str(models)]) == 1
    assert "resnet8-cifar 1: FAILED: " in capsys.readouterr().out


def test_what_decoding_on_a_gpu_would_change(
    models: Path, tmp_path: Path, photo: bytes, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With an engine that decodes like the processor, but fails with one JPEG."""
    failures = iter((False, True, False))

    def load(folder: Path, card: ModelCard, *, gpu_decoding: bool, **options: Any) -> Engine:
        assert gpu_decoding
        engine = load_engine(folder, card, **options)
        decodes(engine, card.preprocessing, lambda: next(failures))
        return engine

    monkeypatch.setattr(verify, "load_engine", load)
    pictures = tmp_path / "pictures"
    (pictures / "deeper").mkdir(parents=True)
    for name in ("a.jpg", "b.JPEG", "deeper/c.jpg"):
        (pictures / name).write_bytes(photo)
    progressive = io.BytesIO()
    Image.open(io.BytesIO(photo)).save(progressive, "JPEG", progressive=True)
    (pictures / "d.jpg").write_bytes(progressive.getvalue())
    command = ["verify", "--provider", "cpu", "--models-dir", str(models), "--gpu-decoding", str(pictures)]
    assert main(command) == 0
    assert (
        "resnet8-cifar 1: of 4 images the GPU decodes 2; of these 100.00 % get the same class as with the processor's "
        "decoding\n"
    ) in capsys.readouterr().out


@pytest.mark.parametrize(
    ("content", "message"), [({}, "has no JPEGs"), ({"a.jpg": b"\xff\xd8\xff\xe0"}, "a.jpg: The image ends")]
)
def test_pictures_that_cannot_be_compared(
    models: Path,
    tmp_path: Path,
    content: dict[str, bytes],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(verify, "load_engine", lambda *a, gpu_decoding, **options: load_engine(*a, **options))
    for name, data in content.items():
        (tmp_path / name).write_bytes(data)
    command = ["verify", "--provider", "cpu", "--models-dir", str(models), "--gpu-decoding", str(tmp_path)]
    assert main(command) == 1
    assert message in capsys.readouterr().err


def test_without_a_gpu_nothing_decodes(models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["verify", "--provider", "cpu", "--models-dir", str(models), "--gpu-decoding", str(tmp_path)]
    assert main(command) == 1
    assert "only CUDA decodes JPEGs on a GPU" in capsys.readouterr().out


@pytest.mark.parametrize("reference", [[], ["resnet50@1"]])
def test_errors_are_one_sentence(reference: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", *reference, "--models-dir", str(tmp_path / "models")]) == 1
    assert capsys.readouterr().err.startswith("error: there is no folder")
