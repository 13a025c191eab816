"""Our own .safetensors files, and those of other projects."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file as load_safetensors
from safetensors.torch import save_file

from model_export.nets.resnet import cifar_resnet, resnet
from model_export.weights.loading import load_file
from model_export.weights.record import Record
from model_export.weights.safetensors_file import save_safetensors
from service.runtime.model_card import Label
from tests.model_export.weights.weight_files import State, assert_same, load, refusal


def test_a_safetensors_file_without_a_record(folder: Path, state: State) -> None:
    save_file(state, folder / "net.safetensors")
    assert_same(load(folder / "net.safetensors"), state)


def test_our_safetensors_files_record_their_architecture(tmp_path: Path) -> None:
    net = resnet(50, variant="v1", num_classes=2).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    path = tmp_path / "net.safetensors"
    path.write_text("an older file")
    save_safetensors(net.state_dict(), path, Record(architecture=net.architecture))
    assert list(tmp_path.iterdir()) == [path]
    assert set(load_safetensors(path)) == set(net.state_dict())

    (tmp_path / "labels.json").write_text('["no", "yes"]')
    loaded = load_file(path, depth=50)
    assert_same(loaded, net.state_dict())
    assert loaded.net.architecture == net.architecture
    assert [label.name for label in loaded.labels] == ["no", "yes"]

    message = refusal(path, family="imagenet", shortcut="B", depth=50, variant="v1.5")
    for part in ("records variant v1", "but v1.5 was requested", "`--variant v1`"):
        assert part in message


def test_metadata_are_sorted_and_keep_every_character(tmp_path: Path) -> None:
    path = tmp_path / "net.safetensors"
    labels = (Label(name='Käse \\ "quoted" 🧀'), Label(name="\u2028\x7f"))
    net = cifar_resnet(8, num_classes=2)
    save_safetensors(net.state_dict(), path, Record(architecture=net.architecture, labels=labels))
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    assert load_file(path).labels == labels
    header = path.read_bytes()[8:]
    places = [header.index(f'"{name}":'.encode()) for name in sorted(metadata)]
    assert places == sorted(places)
    assert int.from_bytes(path.read_bytes()[:8], "little") % 8 == 0


def test_save_safetensors_leaves_nothing_behind_when_it_fails(tmp_path: Path) -> None:
    (tmp_path / "net.safetensors").mkdir()
    with pytest.raises(IsADirectoryError):
        save_safetensors(cifar_resnet(8).state_dict(), tmp_path / "net.safetensors", Record())
    assert [path.name for path in tmp_path.iterdir()] == ["net.safetensors"]


@pytest.mark.parametrize(
    "metadata", [{"architecture": "resnet18"}, {"accuracy": "93%"}, {"labels": "3"}, {"architecture": '"resnet8"'}]
)
def test_metadata_of_other_projects_are_ignored(folder: Path, state: State, metadata: dict[str, str]) -> None:
    save_file(state, folder / "net.safetensors", metadata=metadata)
    assert_same(load(folder / "net.safetensors"), state)
