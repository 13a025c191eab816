"""All or nothing."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from model_export import publish as publish_module
from model_export.parity import ParityFailed
from model_export.publish import next_version, publish
from model_export.random_weights import random_weights
from model_export.weights import Loaded
from service.card import Architecture, ModelCard, SelfTest, published, verify_digests


@pytest.fixture(scope="module")
def loaded() -> Loaded:
    return random_weights(Architecture(depth=8, family="cifar", shortcut="A", num_classes=10))


def test_what_is_published(loaded: Loaded, tmp_path: Path) -> None:
    card = publish(loaded, tmp_path)
    folder = tmp_path / "resnet8-cifar" / "1"
    assert ModelCard.read(folder) == card
    verify_digests(folder, card)
    assert sorted(path.name for path in folder.iterdir()) == ["card.json", "model.onnx", "self_test.npz"]
    assert card.parameters == sum(parameter.numel() for parameter in loaded.net.parameters())
    assert card.files["fp32"].parity.batch_sizes == (1, 2, 3, 8)
    assert card.tools["torch"] == torch.__version__
    assert SelfTest.read(folder).images.shape == (4, 3, 32, 32)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o755  # readable for the service's user
    assert stat.S_IMODE((folder / "model.onnx").stat().st_mode) & 0o444 == 0o444


def test_versions_count_up(loaded: Loaded, tmp_path: Path) -> None:
    assert [publish(loaded, tmp_path, "m").version for _ in range(2)] == [1, 2]
    (tmp_path / "m" / "7").mkdir()
    assert next_version(tmp_path, "m") == 8


def test_somebody_elses_version_is_not_overwritten(
    loaded: Loaded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs = tmp_path / "m" / "1" / "card.json"
    theirs.parent.mkdir(parents=True)
    theirs.write_text("theirs")
    monkeypatch.setattr(publish_module, "next_version", lambda root, name: 1)  # both looked at the same moment
    card = publish(loaded, tmp_path, "m")
    assert card.version == 2
    assert ModelCard.read(tmp_path / "m" / "2").version == 2
    assert theirs.read_text() == "theirs"


def test_a_failed_gate_publishes_nothing(loaded: Loaded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object) -> None:
        raise ParityFailed("no")

    monkeypatch.setattr(publish_module, "check_parity", fail)
    with pytest.raises(ParityFailed):
        publish(loaded, tmp_path)
    assert list((tmp_path / "resnet8-cifar").iterdir()) == []


@pytest.mark.parametrize("name", ["../evil", "Upper", "a/b", "a b", ".hidden", "new\n"])
def test_names_that_are_none(loaded: Loaded, tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="is no name for a model"):
        publish(loaded, tmp_path / "root", name)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.e2e
def test_killed_at_any_moment_nothing_half_written_is_seen(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "model_export", "export", "--weights", "random", "--family", "cifar"]
    command += ["--depth", "8", "--name", "m", "--models-dir", str(tmp_path)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    whole = time.monotonic()
    subprocess.run(command, check=True, capture_output=True, env=environment)
    whole = time.monotonic() - whole
    for share in (0.5, 0.7, 0.8, 0.9, 0.97):
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL, env=environment)
        time.sleep(share * whole)
        process.kill()
        process.wait()
    found = list(published(tmp_path))
    assert found
    for entry in found:
        verify_digests(entry.path, ModelCard.read(entry.path))
