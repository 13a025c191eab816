"""All or nothing."""

from __future__ import annotations

import stat
import subprocess
import sys
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
    assert card.parity.batch_sizes == (1, 2, 3, 8)
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


FLUSHES = 4  # of three files and their folder; then comes the renaming, then the flush of the folder above


@pytest.mark.e2e
def test_killed_at_any_step_nothing_half_written_is_seen(tmp_path: Path) -> None:
    """The process ends without any clean-up before the first step of publishing, then before the second, and so on."""
    program = """
import os, sys
from pathlib import Path
from model_export import publish as module
from model_export.random_weights import random_weights
from service.card import Architecture

left = int(sys.argv[2])

def or_die(step):
    def wrapped(*args):
        global left
        left -= 1
        if left == 0:
            os._exit(9)
        return step(*args)
    return wrapped

module.flush = or_die(module.flush)
Path.rename = or_die(Path.rename)
loaded = random_weights(Architecture(depth=8, family="cifar", shortcut="A", num_classes=10))
module.publish(loaded, Path(sys.argv[1]), "m")
"""
    for step in range(1, FLUSHES + 3):
        finished = subprocess.run([sys.executable, "-c", program, str(tmp_path), str(step)], capture_output=True)
        assert finished.returncode == 9, finished.stderr
        renamed = step > FLUSHES + 1
        assert len(list(published(tmp_path))) == (1 if renamed else 0), step
    for entry in published(tmp_path):
        verify_digests(entry.path, ModelCard.read(entry.path))
