"""All or nothing."""

from __future__ import annotations

import copy
import shutil
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

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


@pytest.fixture(scope="module")
def exported(loaded: Loaded, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ModelCard]:
    """The folder and the card of `loaded`, published."""
    root = tmp_path_factory.mktemp("models")
    card = publish(loaded, root)
    return root / "resnet8-cifar" / "1", card


@pytest.fixture
def exported_before(exported: tuple[Path, ModelCard], monkeypatch: pytest.MonkeyPatch) -> None:
    """The exporter, which takes seconds, gives the file that it wrote for `loaded` before."""
    folder, _ = exported
    monkeypatch.setattr(
        publish_module, "export_onnx", lambda graph, crop, path: shutil.copyfile(folder / "model.onnx", path)
    )


def test_what_is_published(loaded: Loaded, exported: tuple[Path, ModelCard]) -> None:
    folder, card = exported
    assert ModelCard.read(folder) == card
    verify_digests(folder, card)
    assert sorted(path.name for path in folder.iterdir()) == ["card.json", "model.onnx", "self_test.npz"]
    assert card.parameters == sum(parameter.numel() for parameter in loaded.net.parameters())
    assert card.parity.batch_sizes == (1, 2, 3, 8)
    assert card.tools["torch"] == torch.__version__
    assert SelfTest.read(folder).images.shape == (4, 3, 32, 32)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o755  # readable for the service's user
    assert stat.S_IMODE((folder / "model.onnx").stat().st_mode) & 0o444 == 0o444


@pytest.mark.usefixtures("exported_before")
def test_versions_count_up(loaded: Loaded, tmp_path: Path) -> None:
    assert [publish(loaded, tmp_path, "m").version for _ in range(2)] == [1, 2]
    (tmp_path / "m" / "7").mkdir()
    assert next_version(tmp_path, "m") == 8


@pytest.mark.usefixtures("exported_before")
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


@pytest.mark.usefixtures("exported_before")
def test_a_failed_gate_publishes_nothing(loaded: Loaded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object) -> None:
        raise ParityFailed("no")

    monkeypatch.setattr(publish_module, "check_parity", fail)
    with pytest.raises(ParityFailed):
        publish(loaded, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_network_that_does_not_see_is_not_published(loaded: Loaded, tmp_path: Path) -> None:
    blind = copy.deepcopy(loaded)
    with torch.no_grad():
        blind.net.fc.weight.zero_()
    with pytest.raises(ParityFailed, match="the network does not see"):
        publish(blind, tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["../evil", "Upper", "a/b", "a b", ".hidden", "new\n"])
def test_names_that_are_none(loaded: Loaded, tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="is no name for a model"):
        publish(loaded, tmp_path / "root", name)
    assert list(tmp_path.iterdir()) == []


FLUSHES = 4  # of three files and their folder; then comes the renaming, then the flush of the folder above


@pytest.mark.usefixtures("exported_before")
def test_stopped_at_any_step_nothing_half_written_is_seen(
    loaded: Loaded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is on disk before a step of publishing is what a process leaves that is killed there.

    Nothing cleans up after it, and what it has not yet written it will never write.
    """
    root = tmp_path / "models"
    left: list[Path] = []

    def recorded(step: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*args: Any) -> Any:
            left.append(shutil.copytree(root, tmp_path / f"before-step-{len(left)}"))
            return step(*args)

        return wrapped

    with monkeypatch.context() as patch:
        patch.setattr(publish_module, "flush", recorded(publish_module.flush))
        patch.setattr(Path, "rename", recorded(Path.rename))
        publish(loaded, root, "m")
    assert len(left) == FLUSHES + 2
    *before_renaming, after_renaming = left
    for folder in before_renaming:
        assert list(published(folder)) == []
    (entry,) = published(after_renaming)
    verify_digests(entry.path, ModelCard.read(entry.path))

    for folder, version in ((before_renaming[-1], 1), (after_renaming, 2)):  # what was left is in nobody's way
        assert publish(loaded, folder, "m").version == version
        for entry in published(folder):
            verify_digests(entry.path, ModelCard.read(entry.path))
