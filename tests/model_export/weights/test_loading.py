"""From a weight file to a network with labels."""

from __future__ import annotations

import logging
import subprocess
import sys
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from model_export.nets.resnet import cifar_resnet
from model_export.weights.loading import load_file
from service.runtime.model_folder import sha256
from tests.model_export.weights.weight_files import State, assert_same, imagenet_file, load, meta_resnet, refusal


def test_a_bare_state_dict(folder: Path, state: State) -> None:
    path = folder / "net.pth"
    torch.save(state, path)
    loaded = load(path)
    assert_same(loaded, state)
    assert not loaded.net.training
    assert all(parameter.requires_grad for parameter in loaded.net.parameters())
    assert loaded.net.architecture == cifar_resnet(8, num_classes=3).architecture
    assert (loaded.weights.source, loaded.weights.sha256) == ("net.pth", sha256(path))
    assert [label.name for label in loaded.labels] == ["red", "green", "blue"]
    assert loaded.preprocessing.crop == 32
    assert loaded.accuracy is None


def test_a_classifier_in_a_sequential(folder: Path, state: State, caplog: pytest.LogCaptureFixture) -> None:
    renamed = {name.replace("fc.", "fc.1."): tensor for name, tensor in state.items()}
    torch.save(renamed, folder / "net.pth")
    with caplog.at_level(logging.INFO):
        assert_same(load(folder / "net.pth"), state)
    assert "the classifier is fc.1" in caplog.text


@pytest.mark.parametrize("head", ["head.fc", "head", "classifier", "classifier.1", "linear", "last_linear"])
@pytest.mark.parametrize("prefix", ["", "backbone."])
def test_a_classifier_of_another_name(
    folder: Path, state: State, prefix: str, head: str, caplog: pytest.LogCaptureFixture
) -> None:
    body = {prefix + name: tensor for name, tensor in state.items() if not name.startswith("fc.")}
    classifier = {f"{head}.{kind}": state[f"fc.{kind}"] for kind in ("weight", "bias")}
    torch.save(
        {**body, **classifier, "neck.weight": torch.ones(2)} if prefix else body | classifier, folder / "net.pth"
    )
    with caplog.at_level(logging.INFO):
        assert_same(load(folder / "net.pth"), state)
    assert f"the classifier is {head}" in caplog.text
    assert f"left aside: {head}" not in caplog.text


def test_unusable_classifiers_are_named(folder: Path, state: State) -> None:
    body = {f"backbone.{name}": tensor for name, tensor in state.items() if not name.startswith("fc.")}
    two = {f"{head}.fc.weight": state["fc.weight"] for head in ("head", "auxiliary_head")}
    torch.save(body | two, folder / "net.pth")
    assert "besides the layers it has head.fc.weight, auxiliary_head.fc.weight" in refusal(folder / "net.pth")
    torch.save({**body, "head.weight": state["fc.weight"][:, :, None, None]}, folder / "net.pth")
    assert "besides the layers it has head.weight" in refusal(folder / "net.pth")
    torch.save({**body, "head.weight": torch.zeros(3, 7), "head.bias": torch.zeros(3)}, folder / "net.pth")
    assert "fc.weight (3, 7) instead of (3, 64)" in refusal(folder / "net.pth")


def test_a_classifier_of_two_layers_is_shown(folder: Path, state: State) -> None:
    two = {name.replace("fc.", f"fc.{index}."): tensor for name, tensor in state.items() for index in (0, 2)}
    torch.save(two, folder / "net.pth")
    message = refusal(folder / "net.pth")
    assert "no classifier `fc.weight`" in message
    assert "fc.0.weight, fc.2.weight" in message


def test_an_unknown_variant_is_never_guessed(folder: Path) -> None:
    path = imagenet_file(folder / "net.pth", meta_resnet(50, num_classes=3))
    message = refusal(path, family="imagenet", shortcut="B", depth=50)
    for part in ("v1 or v1.5", "shapes are identical", "torchvision", "Caffe", "`--variant v1.5`", "`--variant v1`"):
        assert part in message
    for variant in ("v1", "v1.5"):
        assert load_file(path, depth=50, variant=variant).net.architecture.variant == variant


def test_basic_blocks_need_no_variant(folder: Path) -> None:
    path = imagenet_file(folder / "net.pth", meta_resnet(18, num_classes=3))
    assert load_file(path, depth=18).net.architecture == meta_resnet(18, num_classes=3).architecture


@pytest.mark.parametrize("key", ["model", None])
def test_a_checkpoint_may_record_its_architecture(folder: Path, state: State, key: str | None) -> None:
    record = {"depth": 8, "family": "cifar", "variant": "v1.5", "shortcut": "A", "num_classes": 3}
    torch.save({"architecture": record, **({key: state} if key else state)}, folder / "net.pth")
    assert_same(load(folder / "net.pth"), state)
    message = refusal(folder / "net.pth", shortcut="none")
    for part in ("records shortcut A", "but none was requested", "`--shortcut A`"):
        assert part in message
    message = refusal(folder / "net.pth", depth=18, family="imagenet", shortcut="A")
    for part in ("records depth 8", "records family cifar", "`--family cifar` `--depth 8`"):
        assert part in message


def test_a_record_that_contradicts_the_weights(folder: Path, state: State) -> None:
    record = {"depth": 8, "family": "cifar", "variant": "v1.5", "shortcut": "A", "num_classes": 10}
    torch.save({"architecture": record, "model": state}, folder / "net.pth")
    assert "records 10 classes and its `fc.weight` has 3" in refusal(folder / "net.pth")


def test_a_missing_file(tmp_path: Path) -> None:
    assert "does not exist" in refusal(tmp_path / "net.pth")


@pytest.mark.parametrize("shape", [(3,), (0, 64)])
def test_a_classifier_without_classes(folder: Path, state: State, shape: tuple[int, ...]) -> None:
    torch.save({**state, "fc.weight": torch.zeros(shape)}, folder / "net.pth")
    assert "no classifier `fc.weight` of shape (classes, features)" in refusal(folder / "net.pth")


def test_given_labels_come_before_those_beside_the_file(folder: Path, state: State) -> None:
    torch.save(state, folder / "net.pth")
    (folder / "colours.txt").write_text("rot\ngrün\nblau\n", encoding="utf-8")
    assert [label.name for label in load(folder / "net.pth", labels=folder / "colours.txt").labels][1] == "grün"


def test_labels_of_the_wrong_count(folder: Path, state: State) -> None:
    torch.save(state, folder / "net.pth")
    (folder / "labels.txt").write_text("red\ngreen\n")
    message = refusal(folder / "net.pth")
    for part in (f"{folder / 'labels.txt'} names 2 classes", "has 3", "`--labels FILE`"):
        assert part in message


NAMES = ["one", "two", "three"]


@pytest.mark.parametrize(
    ("beside", "place"),
    [
        ({"class_to_idx": {"three": 2, "one": 0, "two": 1}}, "class_to_idx"),
        ({"idx_to_class": dict(enumerate(NAMES))}, "idx_to_class"),
        ({"classes": NAMES}, "classes"),
        ({"labels": tuple(NAMES)}, "labels"),
        ({"class_names": NAMES, "classes": 3}, "class_names"),
        ({"hyper_parameters": {"classes": NAMES}}, "hyper_parameters.classes"),
        ({"args": Namespace(class_names=NAMES)}, "args.class_names"),
        ({"meta": {"dataset_meta": {"classes": NAMES}}}, "meta.dataset_meta.classes"),
        ({"meta": {"CLASSES": NAMES}}, "meta.CLASSES"),
        ({"classes": ["car", "road"], "class_names": NAMES}, "class_names"),
        ({"classes": NAMES, "labels": NAMES}, "classes"),
    ],
)
def test_the_names_in_a_file_come_before_those_beside_it(
    folder: Path, state: State, beside: dict[str, Any], place: str, caplog: pytest.LogCaptureFixture
) -> None:
    torch.save({"state_dict": state, **beside}, folder / "net.pth")
    with caplog.at_level(logging.INFO):
        loaded = load(folder / "net.pth")
    assert [label.name for label in loaded.labels] == NAMES
    assert f"labels from its {place}" in caplog.text
    given = load(folder / "net.pth", labels=folder / "labels.txt")
    assert [label.name for label in given.labels] == ["red", "green", "blue"]


@pytest.mark.parametrize("beside", [{"classes": ["car", "road"]}, {"labels": torch.ones(3)}, {"names": NAMES[0]}, {}])
def test_entries_that_do_not_name_the_classes_are_ignored(folder: Path, state: State, beside: dict[str, Any]) -> None:
    torch.save({"state_dict": state, **beside}, folder / "net.pth")
    assert [label.name for label in load(folder / "net.pth").labels] == ["red", "green", "blue"]


def test_names_in_the_metadata_of_safetensors(folder: Path, state: State) -> None:
    save_file(state, folder / "net.safetensors", metadata={"classes": '["one", "two", "three"]', "names": "none"})
    assert [label.name for label in load(folder / "net.safetensors").labels] == NAMES


def test_names_that_contradict_each_other(folder: Path, state: State) -> None:
    torch.save(
        {"state_dict": state, "classes": NAMES, "idx_to_class": dict(enumerate(NAMES[::-1]))}, folder / "net.pth"
    )
    message = refusal(folder / "net.pth")
    assert "names its classes in classes and, differently, in idx_to_class: pass the right names" in message


def test_our_record_comes_before_other_class_names(folder: Path, state: State) -> None:
    record = {"depth": 8, "family": "cifar", "variant": "v1.5", "shortcut": "A", "num_classes": 3}
    labels = [{"name": name} for name in ("rot", "grün", "blau")]
    torch.save({"architecture": record, "labels": labels, "classes": NAMES, "state_dict": state}, folder / "net.pth")
    assert [label.name for label in load_file(folder / "net.pth").labels] == ["rot", "grün", "blau"]


def test_no_labels_anywhere(tmp_path: Path, state: State) -> None:
    torch.save(state, tmp_path / "net.pth")
    message = refusal(tmp_path / "net.pth")
    for part in ("3 classes", "`--labels FILE`", "labels.txt, labels.json, labels.tsv"):
        assert part in message


def test_labels_that_are_not_needed(tmp_path: Path, state: State, caplog: pytest.LogCaptureFixture) -> None:
    torch.save(state, tmp_path / "net.pth")
    assert load(tmp_path / "net.pth", labels_needed=False).labels == ()
    assert "3 classes and no labels" in caplog.text
    assert "--labels" not in caplog.text
    (tmp_path / "labels.txt").write_text("red\ngreen\nblue\n")
    assert len(load(tmp_path / "net.pth", labels_needed=False).labels) == 3


def test_a_thousand_classes_without_labels_get_imagenets(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = imagenet_file(tmp_path / "net.pth", meta_resnet(18))
    assert load_file(path, depth=18).labels[0].name == "tench"
    assert "net.pth has 1000 classes and no labels: using ImageNet's" in caplog.text


def test_loading_weights_imports_no_onnx() -> None:
    """Training loads weights and needs neither `onnx` nor `onnxscript`."""
    code = """
import importlib, pkgutil, sys
from model_export import weights
for module in pkgutil.iter_modules(weights.__path__, "model_export.weights."):
    importlib.import_module(module.name)
assert "model_export.weights.loading" in sys.modules
print(*sorted({"onnx", "onnxscript", "model_export.export"} & sys.modules.keys()))
"""
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert process.stdout.split() == []
