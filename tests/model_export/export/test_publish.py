"""Publication, all or nothing."""

from __future__ import annotations

import copy
import fcntl
import os
import shutil
import stat
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch

from benchmarks.small_disk import fill
from model_export.errors import InputError
from model_export.export import publish as publish_module
from model_export.export.collapse_gate import Collapsed
from model_export.export.parity_gate import ParityFailed
from model_export.export.publish import next_version, publish, publish_changed
from model_export.export.record import publish_record
from model_export.weights.loading import Loaded
from model_export.weights.random_weights import random_weights
from service.runtime import disk
from service.runtime.head import Head
from service.runtime.measured import Accuracy
from service.runtime.model_card import RESERVED_NAMES, Architecture, ModelCard
from service.runtime.model_folder import CardError, ModelVersion, model_versions, read_card, verify_digests
from service.runtime.self_test import SelfTest
from tests.support.disks import small_disk_at


@pytest.fixture(scope="module")
def loaded() -> Loaded:
    return random_weights(Architecture(depth=8, family="cifar", shortcut="A", num_classes=10))


@pytest.fixture(scope="module")
def exported(loaded: Loaded, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ModelCard]:
    """The folder and the card of `loaded`, published."""
    root = tmp_path_factory.mktemp("models")
    card = publish(loaded, root)
    return root / "resnet8-cifar" / "1", card


def test_what_is_published(loaded: Loaded, exported: tuple[Path, ModelCard]) -> None:
    folder, card = exported
    assert read_card(folder) == card
    verify_digests(folder, card)
    assert sorted(path.name for path in folder.iterdir()) == [
        "card.json",
        "classifier.npy",
        "model.onnx",
        "self_test.npz",
    ]
    assert card.parameters == sum(parameter.numel() for parameter in loaded.net.parameters())
    assert card.parity.batch_sizes == (1, 2, 3, 8)
    assert card.tools["torch"] == metadata.version("torch")  # torch.__version__ may add "+cu130"
    assert SelfTest.read(folder).images.shape == (4, 3, 32, 32)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o755  # readable for the service's user
    assert stat.S_IMODE((folder / "model.onnx").stat().st_mode) & 0o444 == 0o444


@pytest.mark.usefixtures("quick_export")
def test_versions_count_up(loaded: Loaded, tmp_path: Path) -> None:
    assert [publish(loaded, tmp_path, "m").version for _ in range(2)] == [1, 2]
    (tmp_path / "m" / "7").mkdir()
    assert next_version(tmp_path, "m") == 8


@pytest.mark.usefixtures("quick_export")
def test_a_number_is_not_used_twice_even_after_a_removal(loaded: Loaded, tmp_path: Path) -> None:
    for _ in range(2):
        publish(loaded, tmp_path, "m")
    shutil.rmtree(tmp_path / "m" / "2")
    assert publish(loaded, tmp_path, "m").version == 3
    shutil.rmtree(tmp_path / "m" / "1")
    shutil.rmtree(tmp_path / "m" / "3")
    assert publish(loaded, tmp_path, "m").version == 4


@pytest.mark.usefixtures("quick_export")
def test_a_damaged_state_publishes_nothing(loaded: Loaded, tmp_path: Path) -> None:
    publish(loaded, tmp_path, "m")
    (tmp_path / "m" / "model.json").write_text("{")
    with pytest.raises(CardError, match=r"model.json is damaged: .*restore it, or delete it"):
        publish(loaded, tmp_path, "m")
    assert sorted(path.name for path in (tmp_path / "m").iterdir()) == ["1", "model.json"]


@pytest.mark.usefixtures("quick_export")
def test_a_changed_card_is_the_next_version_with_the_same_files(loaded: Loaded, tmp_path: Path) -> None:
    before = publish(loaded, tmp_path, "m")
    folder = tmp_path / "m" / "1"
    text = (folder / "card.json").read_text()
    card = publish_changed(ModelVersion("m", 1, folder), {"metadata": {"ticket": "17"}}, check=lambda: None)
    assert (folder / "card.json").read_text() == text
    assert card == read_card(tmp_path / "m" / "2")
    assert card.model_copy(update={"version": 1, "created": before.created, "metadata": {}}) == before
    assert card.metadata == {"ticket": "17"}
    verify_digests(tmp_path / "m" / "2", card)
    for name in ("model.onnx", "self_test.npz"):
        assert (tmp_path / "m" / "2" / name).samefile(folder / name)


@pytest.mark.usefixtures("quick_export")
def test_the_last_check_is_made_while_nobody_else_can_publish(loaded: Loaded, tmp_path: Path) -> None:
    publish(loaded, tmp_path, "m")

    def refuse() -> None:
        descriptor = os.open(tmp_path / "m", os.O_RDONLY)
        try:
            with pytest.raises(BlockingIOError):
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        finally:
            os.close(descriptor)
        raise InputError("no")

    with pytest.raises(InputError, match="no"):
        publish_changed(ModelVersion("m", 1, tmp_path / "m" / "1"), {}, check=refuse)
    assert sorted(path.name for path in (tmp_path / "m").iterdir()) == ["1", "model.json"]


@pytest.mark.usefixtures("quick_export")
def test_what_is_recorded_brings_no_older_files_back(loaded: Loaded, tmp_path: Path) -> None:
    for _ in range(2):
        publish(loaded, tmp_path, "m")
    accuracy = Accuracy(dataset="photos", images=10, top1=0.5, top5=0.9)
    with pytest.raises(InputError, match="m 1 is not the latest version, 2"):
        publish_record(ModelVersion("m", 1, tmp_path / "m" / "1"), accuracy)
    assert [entry.version for entry in model_versions(tmp_path)] == [1, 2]
    assert publish_record(ModelVersion("m", 2, tmp_path / "m" / "2"), accuracy).accuracy == accuracy


@pytest.mark.usefixtures("quick_export")
def test_a_version_of_another_process_is_not_overwritten(
    loaded: Loaded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs = tmp_path / "m" / "1" / "card.json"
    theirs.parent.mkdir(parents=True)
    theirs.write_text("theirs")
    monkeypatch.setattr(publish_module, "next_version", lambda root, name: 1)  # both processes looked at once
    card = publish(loaded, tmp_path, "m")
    assert card.version == 2
    assert read_card(tmp_path / "m" / "2").version == 2
    assert theirs.read_text() == "theirs"


@pytest.mark.usefixtures("quick_export")
def test_on_a_full_disk_nothing_is_published_and_the_old_version_stays(loaded: Loaded, tmp_path: Path) -> None:
    with small_disk_at(tmp_path / "small", 2 * 2**20) as root:
        card = publish(loaded, root, "m")
        full = fill(root)
        with pytest.raises(OSError, match="No space left on device"):
            publish(loaded, root, "m")
        assert list(model_versions(root)) == [("m", 1, root / "m" / "1")]
        assert [path.name for path in (root / "m").iterdir() if path.name.startswith(".")] == []
        verify_digests(root / "m" / "1", card)
        full.unlink()
        assert publish(loaded, root, "m").version == 2


@pytest.mark.usefixtures("quick_export")
def test_a_failed_gate_publishes_nothing(loaded: Loaded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object) -> None:
        raise ParityFailed("no")

    monkeypatch.setattr(publish_module, "check_parity", fail)
    with pytest.raises(ParityFailed):
        publish(loaded, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_collapsed_network_is_not_published(loaded: Loaded, tmp_path: Path) -> None:
    collapsed = copy.deepcopy(loaded)
    with torch.no_grad():
        collapsed.net.fc.weight.zero_()
    with pytest.raises(Collapsed):
        publish(collapsed, tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["../evil", "Upper", "a/b", "a b", ".hidden", "new\n"])
def test_invalid_names(loaded: Loaded, tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="is not a valid model name: use lower-case"):
        publish(loaded, tmp_path / "root", name)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", RESERVED_NAMES)
def test_names_that_paths_of_the_service_have(loaded: Loaded, tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match=f"no model can be called {name}, because paths of the service end in it"):
        publish(loaded, tmp_path / "root", name)
    assert list(tmp_path.iterdir()) == []


FLUSHES = 5  # of four files and their folder; then follow the renaming, the flush of the parent folder, and the state


@pytest.mark.usefixtures("quick_export")
def test_a_process_killed_at_any_step_leaves_nothing_half_written(
    loaded: Loaded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that is killed before a step leaves what was on disk then: copies are taken before each step."""
    root = tmp_path / "models"
    copies: list[Path] = []

    def copying_first(step: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*args: Any) -> Any:
            copies.append(shutil.copytree(root, tmp_path / f"before-step-{len(copies)}"))
            return step(*args)

        return wrapped

    with monkeypatch.context() as patch:
        patch.setattr(publish_module, "flush", copying_first(publish_module.flush))
        patch.setattr(disk, "flush", copying_first(disk.flush))
        patch.setattr(Path, "rename", copying_first(Path.rename))
        publish(loaded, root, "m")
    before_renaming, after_renaming = copies[: FLUSHES + 1], copies[FLUSHES + 1 :]
    for folder in before_renaming:
        assert list(model_versions(folder)) == []
    assert len(after_renaming) == 5  # `model.json` and `models.json`: each is flushed, and then its folder
    for folder in after_renaming:
        (entry,) = model_versions(folder)
        verify_digests(entry.path, read_card(entry.path))

    for folder, version in ((before_renaming[-1], 1), (after_renaming[0], 2)):  # publishing there again works
        assert publish(loaded, folder, "m").version == version
        for entry in model_versions(folder):
            verify_digests(entry.path, read_card(entry.path))


def test_the_head_is_in_the_card_and_in_the_file(loaded: Loaded, tmp_path: Path) -> None:
    one = random_weights(Architecture(depth=8, family="cifar", shortcut="A", num_classes=1))
    with pytest.raises(ValueError, match="softmax over one class always answers 1"):
        publish(one, tmp_path)
    assert not list(tmp_path.iterdir())
    card = publish(one._replace(head=Head(kind="sigmoid")), tmp_path, "single")
    assert read_card(tmp_path / "single" / "1").head == card.head == Head(kind="sigmoid")
    metadata_props = {entry.key: entry.value for entry in onnx.load(tmp_path / "single/1/model.onnx").metadata_props}
    assert metadata_props["head"] == "sigmoid"
    assert "the sigmoid of each is the probability" in metadata_props["output"]


def test_the_end_of_another_export_does_not_take_the_folder_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make = publish_module.tempfile.mkdtemp

    def after_the_others_end(**options: Any) -> str:
        monkeypatch.undo()
        options["dir"].rmdir()
        return make(**options)

    monkeypatch.setattr(publish_module.tempfile, "mkdtemp", after_the_others_end)
    with publish_module.staging_folder(tmp_path / "net") as staging:
        assert staging.is_dir()
    assert not (tmp_path / "net").exists()
