"""What our own files record about their weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from model_export.nets.resnet import cifar_resnet
from model_export.weights.loading import load_file
from model_export.weights.record import Record
from model_export.weights.safetensors_file import WRITER, save_safetensors
from service.runtime.measured import Accuracy
from service.runtime.model_card import ImageSet, Label, Training, Weights
from service.runtime.preprocessing import Preprocessing
from tests.model_export.weights.weight_files import State, assert_same, load, refusal

TRAINING = Training(
    recipe={"epochs": 3, "ema": None},
    seed=7,
    train=ImageSet(name="colours (train)", images=90, sha256="0" * 64),
    val=ImageSet(name="colours (val)", images=10, sha256="1" * 64),
    started_from=Weights(source="other.pth", sha256="2" * 64),
    device="cpu",
    precision="bf16",
    processes=1,
    versions={"torch": "2.13.0"},
)


@pytest.mark.parametrize(
    ("record", "fault"),
    [
        ("{", "has damaged metadata"),
        ('{"depth": "deep"}', "records an invalid architecture (depth: "),
        ('{"depth": 8, "shortcut": "D"}', "records an invalid architecture (shortcut: "),
        ('{"depth": 8, "family": "cifar", "shortcut": "A"}', "it lacks the variant, v1 or v1.5"),
    ],
)
def test_an_invalid_record(folder: Path, state: State, record: str, fault: str) -> None:
    save_file(state, folder / "net.safetensors", metadata={"architecture": record, "writer": WRITER})
    assert fault in refusal(folder / "net.safetensors")


def test_a_file_with_a_record_needs_no_options(tmp_path: Path, state: State) -> None:
    net = cifar_resnet(8, num_classes=3)
    record = Record(
        architecture=net.architecture,
        preprocessing=Preprocessing(resize=40, crop=32, mean_image=True),
        labels=tuple(Label(name=name) for name in ("red", "green", "blue")),
        accuracy=Accuracy(dataset="colours", images=10, top1=0.5, top5=1),
        training=TRAINING,
    )
    mean_image = torch.rand(3, 32, 32)
    save_safetensors(state, tmp_path / "net.safetensors", record, mean_image)
    entries = {**record.model_dump(mode="json"), "mean_image": mean_image, "state_dict": state, "optimizer": {}}
    torch.save(entries, tmp_path / "net.pt")
    for name in ("net.safetensors", "net.pt"):
        loaded = load_file(tmp_path / name)
        assert_same(loaded, state)
        assert loaded.net.architecture == net.architecture
        assert (loaded.preprocessing, loaded.labels) == (record.preprocessing, record.labels)
        assert loaded.accuracy == record.accuracy
        assert loaded.training == record.training
        assert loaded.mean_image is not None
        assert torch.equal(loaded.mean_image, mean_image)


def test_entries_of_other_projects_are_not_taken_for_a_record(folder: Path, state: State) -> None:
    torch.save({"state_dict": state, "accuracy": 0.93, "labels": [3, 1]}, folder / "net.pth")
    assert load(folder / "net.pth").accuracy is None
