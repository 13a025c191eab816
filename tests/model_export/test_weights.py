import collections
import datetime
import decimal
import fractions
import logging
import os
import re
import uuid
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path, PureWindowsPath
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file as load_safetensors
from safetensors.torch import save_file
from torch import Tensor, nn

from model_export.errors import InputError, Unavailable
from model_export.resnet import ResNet, cifar_resnet, resnet
from model_export.weight_files import WRITER, Record, save_safetensors
from model_export.weights import IMAGENET_WEIGHTS, Loaded, imagenet, load_file
from service.card import Accuracy, Label, Preprocessing, sha256

State = dict[str, Tensor]


@pytest.fixture(scope="module")
def state() -> State:
    """Of a small net, ResNet-8 for CIFAR with 3 classes, whose statistics are not the initial ones."""
    net = cifar_resnet(8, num_classes=3)
    net(torch.rand(4, 3, 32, 32))
    return net.state_dict()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "labels.txt").write_text("red\ngreen\nblue\n")
    return tmp_path


def load(path: Path, depth: int = 8, **changes: Any) -> Loaded:
    return load_file(path, **{"depth": depth, "family": "cifar", "shortcut": "A", **changes})


def refusal(path: Path, **asked: Any) -> str:
    with pytest.raises(InputError) as caught:
        load(path, **asked)
    assert str(path) in str(caught.value)
    return str(caught.value)


def imagenet_file(path: Path, net: ResNet, **replaced: Tensor) -> Path:
    """A file of one value per tensor: all the names and shapes of a net, in a few kilobytes."""
    state = {name: torch.zeros(()).expand(tensor.shape) for name, tensor in net.state_dict().items()}
    torch.save({**state, **replaced}, path)
    return path


def meta_resnet(depth: int, **options: Any) -> ResNet:
    with torch.device("meta"):
        return resnet(depth, **options)


def prefixed(state: State, prefix: str) -> State:
    return {prefix + name: tensor for name, tensor in state.items()}


def assert_same(loaded: Loaded, state: State) -> None:
    found = loaded.net.state_dict()
    assert list(found) == list(state)
    for name, tensor in state.items():
        torch.testing.assert_close(found[name], tensor, rtol=0, atol=0)


# --- the published files -------------------------------------------------------------------------------------------


def test_table() -> None:
    assert {depth for depth, version in IMAGENET_WEIGHTS if version == "v1"} == {18, 34, 50, 101, 152}
    assert {depth for depth, version in IMAGENET_WEIGHTS if version == "v2"} == {50, 101, 152}
    for (depth, version), entry in IMAGENET_WEIGHTS.items():
        assert re.fullmatch(r"[0-9a-f]{64}" if version == "v1" else r"[0-9a-f]{8}", entry.sha256)
        assert entry.file == f"resnet{depth}-{entry.sha256[:8]}.pth"
        assert 0.69 < entry.top1 < entry.top5 < 0.97
        assert entry.license == "BSD-3-Clause"
        assert entry.preprocessing.resize == (256 if version == "v1" else 232)
        assert entry.preprocessing.crop == 224


def test_imagenet_with_the_real_files_that_are_cached() -> None:
    checkpoints = Path(torch.hub.get_dir()) / "checkpoints"
    cached = [key for key, entry in IMAGENET_WEIGHTS.items() if (checkpoints / entry.file).exists()]
    if not cached:
        pytest.skip(f"no published weights in {checkpoints}")
    for depth, version in cached:
        loaded = imagenet(depth, version)
        assert (loaded.weights.sha256 or "").startswith(IMAGENET_WEIGHTS[depth, version].sha256)


# --- what loads ----------------------------------------------------------------------------------------------------


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


def test_the_old_format_of_torch_save(folder: Path, state: State) -> None:
    torch.save(state, folder / "net.pt", _use_new_zipfile_serialization=False)
    assert_same(load(folder / "net.pt"), state)


def test_a_foreign_safetensors_file(folder: Path, state: State) -> None:
    save_file(state, folder / "net.safetensors")
    assert_same(load(folder / "net.safetensors"), state)


@pytest.mark.parametrize("key", ["state_dict", "model", "state_dict_ema", "model_ema"])
def test_a_training_checkpoint(folder: Path, state: State, key: str) -> None:
    torch.save({"epoch": 3, "args": Namespace(lr=0.1), key: state}, folder / "net.pth.tar")
    assert_same(load(folder / "net.pth.tar"), state)


@pytest.mark.parametrize(("averaged", "raw"), [("state_dict_ema", "state_dict"), ("model_ema", "model")])
def test_averaged_weights_are_preferred(
    folder: Path, state: State, averaged: str, raw: str, caplog: pytest.LogCaptureFixture
) -> None:
    others = {name: torch.zeros_like(tensor) for name, tensor in state.items()}
    ema = {"n_averaged": torch.tensor(7), **{f"module.{name}": tensor for name, tensor in state.items()}}
    torch.save({raw: others, averaged: ema}, folder / "net.pth")
    with caplog.at_level(logging.INFO):
        assert_same(load(folder / "net.pth"), state)
    assert f"using the weights under '{averaged}'" in caplog.text


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (lambda state: {"state_dict": prefixed(state, "model."), "epoch": 3}, "under 'state_dict', without the prefix"),
        (lambda state: {"epoch": 1, "model_state_dict": state, "optimizer_state_dict": {}}, "under 'model_state_dict'"),
        (lambda state: {"net": {"weights": prefixed(state, "backbone.")}}, "under 'net.weights'"),
        (lambda state: prefixed(state, "net.module.") | {"loss.weight": torch.ones(3)}, "left aside: loss.weight"),
    ],
)
def test_a_state_dict_is_found_by_its_content(
    folder: Path, state: State, content: Callable[[State], dict[str, Any]], said: str, caplog: pytest.LogCaptureFixture
) -> None:
    torch.save(content(state), folder / "net.ckpt")
    with caplog.at_level(logging.INFO):
        assert_same(load(folder / "net.ckpt"), state)
    assert said in caplog.text


def test_harmless_objects_beside_the_weights(folder: Path, state: State) -> None:
    beside = {
        "best_acc": np.float64(0.9),
        "epoch": np.int64(3),
        "meters": collections.defaultdict(list, loss=[0.1]),
        "folder": Path("runs/1"),
        "theirs": PureWindowsPath("runs/1"),
        "args": Namespace(lr=0.1),
        "tags": {"a"},
        "frozen": frozenset({"a"}),
        "config": SimpleNamespace(lr=0.1),
        "losses": np.zeros(4),
        "old_losses": np.zeros((2, 3), dtype=">f4"),
        "names": np.array(["a", "b"]),
        "objects": np.array([1, "a"], dtype=object),
        "complex": np.complex64(1),
        "day": np.datetime64("2020-01-01"),
        "rng": np.random.RandomState(3).get_state(),
        "generator": np.random.default_rng(3),
        "since": datetime.datetime.now(datetime.UTC),
        "took": datetime.timedelta(1),
        "today": datetime.date(2020, 1, 1),
        "at": datetime.time(1),
        "share": decimal.Decimal("0.5"),
        "ratio": fractions.Fraction(1, 2),
        "run": uuid.UUID(int=3),
        "recent": collections.deque([0.1, 0.2], maxlen=3),
        "steps": range(3),
        "part": slice(1, 2),
    }
    torch.save({"state_dict": state, **beside}, folder / "net.pth")
    assert_same(load(folder / "net.pth"), state)


def test_numbers_of_numpy_keep_their_values(folder: Path, state: State) -> None:
    order = {"red": np.int64(2), "green": np.uint8(0), "blue": np.int16(1)}
    torch.save({"state_dict": state, "class_to_idx": order}, folder / "net.pth")
    assert [label.name for label in load(folder / "net.pth").labels] == ["green", "blue", "red"]


def test_counters_of_operations_are_passed_over(folder: Path, state: State) -> None:
    counters = {name: torch.zeros(1) for name in ("total_ops", "total_params", "layer1.total_ops", "bn1.total_params")}
    torch.save(state | counters, folder / "net.pth")
    assert_same(load(folder / "net.pth"), state)


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


def test_classifiers_that_are_none_of_ours_are_named(folder: Path, state: State) -> None:
    body = {f"backbone.{name}": tensor for name, tensor in state.items() if not name.startswith("fc.")}
    two = {f"{head}.fc.weight": state["fc.weight"] for head in ("head", "auxiliary_head")}
    torch.save(body | two, folder / "net.pth")
    assert "beside the layers it has head.fc.weight, auxiliary_head.fc.weight" in refusal(folder / "net.pth")
    torch.save({**body, "head.weight": state["fc.weight"][:, :, None, None]}, folder / "net.pth")
    assert "beside the layers it has head.weight" in refusal(folder / "net.pth")
    torch.save({**body, "head.weight": torch.zeros(3, 7), "head.bias": torch.zeros(3)}, folder / "net.pth")
    assert "fc.weight (3, 7) instead of (3, 64)" in refusal(folder / "net.pth")


def as_transformers(name: str) -> str:
    """A parameter of a ResNet as Hugging Face's transformers name it."""
    if name.startswith("fc."):
        return name.replace("fc.", "classifier.1.")
    name = re.sub(r"^(conv|bn)1\.", r"resnet.embedder.embedder.\1.", name)
    name = re.sub(r"downsample\.([01])", lambda found: f"shortcut.{('conv', 'bn')[int(found[1])]}", name)
    name = re.sub(r"(conv|bn)([123])\.", lambda found: f"layer.{int(found[2]) - 1}.{found[1]}.", name)
    name = re.sub(
        r"^layer(\d)\.(\d+)", lambda found: f"resnet.encoder.stages.{int(found[1]) - 1}.layers.{found[2]}", name
    )
    return name.replace(".conv.", ".convolution.").replace(".bn.", ".normalization.")


def test_names_of_transformers(tmp_path: Path) -> None:
    (tmp_path / "labels.txt").write_text("red\ngreen\nblue\n")
    state = cifar_resnet(14, shortcut="B", num_classes=3).state_dict()
    renamed = {as_transformers(name): tensor for name, tensor in state.items()}
    for name in (
        "resnet.embedder.embedder.convolution.weight",
        "resnet.embedder.embedder.normalization.running_mean",
        "resnet.encoder.stages.2.layers.1.layer.1.normalization.weight",
        "resnet.encoder.stages.1.layers.0.shortcut.convolution.weight",
        "classifier.1.bias",
    ):
        assert name in renamed
    torch.save(renamed, tmp_path / "pytorch_model.bin")
    assert_same(load(tmp_path / "pytorch_model.bin", depth=14, shortcut="B"), state)


def test_names_of_transformers_with_bottlenecks(folder: Path) -> None:
    net = meta_resnet(50, num_classes=3)
    zeros = {as_transformers(name): torch.zeros(()).expand(one.shape) for name, one in net.state_dict().items()}
    assert "resnet.encoder.stages.3.layers.2.layer.2.convolution.weight" in zeros
    torch.save(zeros, folder / "net.pth")
    assert load_file(folder / "net.pth", depth=50, variant="v1.5").net.architecture.depth == 50


def test_a_shortcut_of_another_name(folder: Path) -> None:
    state = cifar_resnet(8, shortcut="B", num_classes=3).state_dict()
    renamed = {name.replace("downsample", "shortcut").replace("fc.", "linear."): one for name, one in state.items()}
    assert "layer2.0.shortcut.0.weight" in renamed
    torch.save(renamed, folder / "net.pth")
    assert_same(load(folder / "net.pth", shortcut="B"), state)


def test_a_classifier_of_two_layers_is_shown(folder: Path, state: State) -> None:
    two = {name.replace("fc.", f"fc.{index}."): tensor for name, tensor in state.items() for index in (0, 2)}
    torch.save(two, folder / "net.pth")
    message = refusal(folder / "net.pth")
    assert "no classifier `fc.weight`" in message
    assert "fc.0.weight, fc.2.weight" in message


def test_an_absent_average_is_passed_over(folder: Path, state: State) -> None:
    torch.save({"state_dict": state, "state_dict_ema": None}, folder / "net.pth")
    assert_same(load(folder / "net.pth"), state)


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module."])
def test_prefixes_are_removed(folder: Path, state: State, prefix: str) -> None:
    torch.save({prefix + name: tensor for name, tensor in state.items()}, folder / "net.pth")
    assert_same(load(folder / "net.pth"), state)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_floats_become_float32(folder: Path, state: State, dtype: torch.dtype) -> None:
    cast = {name: tensor.to(dtype) if tensor.is_floating_point() else tensor for name, tensor in state.items()}
    save_file(cast, folder / "net.safetensors")
    expected = {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in cast.items()}
    assert_same(load(folder / "net.safetensors"), expected)


def test_batch_norm_counters_may_be_missing(folder: Path, state: State) -> None:
    torch.save({name: t for name, t in state.items() if "num_batches_tracked" not in name}, folder / "net.pth")
    expected = {name: torch.tensor(0) if "num_batches_tracked" in name else t for name, t in state.items()}
    assert_same(load(folder / "net.pth"), expected)


def test_saved_safetensors_record_their_architecture(tmp_path: Path) -> None:
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
    for part in ("records variant v1", "asked for was v1.5", "`--variant v1`"):
        assert part in message


def test_save_safetensors_leaves_nothing_behind_when_it_fails(tmp_path: Path) -> None:
    (tmp_path / "net.safetensors").mkdir()
    with pytest.raises(IsADirectoryError):
        save_safetensors(cifar_resnet(8).state_dict(), tmp_path / "net.safetensors", Record())
    assert [path.name for path in tmp_path.iterdir()] == ["net.safetensors"]


# --- which architecture --------------------------------------------------------------------------------------------


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
    for part in ("records shortcut A", "asked for was none", "`--shortcut A`"):
        assert part in message
    message = refusal(folder / "net.pth", depth=18, family="imagenet", shortcut="A")
    for part in ("records depth 8", "records family cifar", "`--family cifar` `--depth 8`"):
        assert part in message


def test_a_record_that_contradicts_the_weights(folder: Path, state: State) -> None:
    record = {"depth": 8, "family": "cifar", "variant": "v1.5", "shortcut": "A", "num_classes": 10}
    torch.save({"architecture": record, "model": state}, folder / "net.pth")
    assert "records 10 classes and its `fc.weight` has 3" in refusal(folder / "net.pth")


@pytest.mark.parametrize(
    ("record", "fault"),
    [
        ("{", "has damaged metadata"),
        ('{"depth": "deep"}', "records an architecture that is not valid: depth: "),
        ('{"depth": 8, "width": 2}', "records an architecture that is not valid: width: "),
        ('{"depth": 8, "family": "cifar", "shortcut": "A"}', "it lacks the variant, v1 or v1.5"),
    ],
)
def test_a_record_that_is_not_valid(folder: Path, state: State, record: str, fault: str) -> None:
    save_file(state, folder / "net.safetensors", metadata={"architecture": record, "writer": WRITER})
    assert fault in refusal(folder / "net.safetensors")


@pytest.mark.parametrize(
    "metadata", [{"architecture": "resnet18"}, {"accuracy": "93%"}, {"labels": "3"}, {"architecture": '"resnet8"'}]
)
def test_metadata_of_others_means_nothing(folder: Path, state: State, metadata: dict[str, str]) -> None:
    save_file(state, folder / "net.safetensors", metadata=metadata)
    assert_same(load(folder / "net.safetensors"), state)


def test_what_training_records_needs_not_be_said_again(tmp_path: Path, state: State) -> None:
    net = cifar_resnet(8, num_classes=3)
    record = Record(
        architecture=net.architecture,
        preprocessing=Preprocessing(resize=40, crop=32, mean_image=True),
        labels=tuple(Label(name=name) for name in ("red", "green", "blue")),
        accuracy=Accuracy(dataset="colours", images=10, top1=0.5, top5=1),
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
        assert loaded.mean_image is not None
        assert torch.equal(loaded.mean_image, mean_image)


def test_entries_of_others_are_not_taken_for_a_record(folder: Path, state: State) -> None:
    torch.save({"state_dict": state, "accuracy": 0.93, "labels": [3, 1]}, folder / "net.pth")
    assert load(folder / "net.pth").accuracy is None


@pytest.mark.parametrize(
    ("in_file", "asked", "parts"),
    [
        (
            {"depth": 101},
            {"depth": 50},
            ("looks like depth 101", "3, 4, 23, 3 bottlenecks", "pass `--depth 101`", "306 unexpected: layer3.6."),
        ),
        (
            {"depth": 18},
            {"depth": 50},
            ("looks like depth 18", "2, 2, 2, 2 basic blocks", "`--depth 18`", "missing: layer1.0.downsample.0.weight"),
        ),
        ({"depth": 18}, {"depth": 50}, ("shape: layer1.0.conv1.weight (64, 64, 3, 3) instead of (64, 64, 1, 1), ",)),
        ({"depth": 50}, {"depth": 34}, ("looks like depth 50", "`--depth 50`")),
        ({"depth": 18, "shortcut": "C"}, {"depth": 18}, ("pass `--shortcut C`", "unexpected: layer1.0.downsample.0")),
        ({"depth": 18, "shortcut": "A"}, {"depth": 18}, ("pass `--shortcut A`", "missing: layer2.0.downsample.0")),
        ({"depth": 18}, {"depth": 34, "shortcut": "none"}, ("pass `--depth 18` `--shortcut B`",)),
        ({"depth": 18, "shortcut": None}, {"depth": 34, "shortcut": "none"}, ("shortcut none", "pass `--depth 18`;")),
        ({"depth": 18}, {"depth": 20, "family": "cifar", "shortcut": "A"}, ("`--family imagenet` `--depth 18`",)),
    ],
)  # fmt: skip
def test_another_architecture(
    folder: Path, in_file: dict[str, Any], asked: dict[str, Any], parts: tuple[str, ...]
) -> None:
    path = imagenet_file(folder / "net.pth", meta_resnet(num_classes=3, **in_file))
    message = refusal(path, **{"family": "imagenet", "shortcut": "B", "variant": "v1.5", **asked})
    for part in parts:
        assert part in message


def test_a_cifar_net_asked_for_as_another(folder: Path, state: State) -> None:
    torch.save(state, folder / "net.pth")
    assert "pass `--depth 8`" in refusal(folder / "net.pth", depth=20)
    message = refusal(folder / "net.pth", depth=18, family="imagenet", shortcut="B")
    assert "pass `--family cifar` `--depth 8` `--shortcut A`" in message


def test_at_most_five_names_of_a_kind(folder: Path) -> None:
    path = imagenet_file(folder / "net.pth", meta_resnet(34, num_classes=3))
    message = refusal(path, family="imagenet", shortcut="B", depth=18)
    kinds = message.partition("`--depth 34`; ")[2]
    assert kinds == (
        "96 unexpected: layer1.2.conv1.weight, layer1.2.bn1.weight, layer1.2.bn1.bias, layer1.2.bn1.running_mean, "
        "layer1.2.bn1.running_var, ..."
    )


def test_an_imagenet_net_that_was_changed_for_cifar(folder: Path) -> None:
    net = meta_resnet(18, num_classes=3).state_dict()
    net["conv1.weight"] = torch.zeros(64, 3, 3, 3)
    kuangliu = {
        name.replace("downsample", "shortcut").replace("fc.", "linear."): torch.zeros(()).expand(one.shape)
        for name, one in net.items()
    }
    torch.save(kuangliu, folder / "net.pth")
    message = refusal(folder / "net.pth", family="imagenet", shortcut=None, depth=18)
    assert "does not fit resnet18: its first convolution is 3x3, as in ImageNet nets that were changed" in message
    assert message.endswith("1 of another shape: conv1.weight (64, 3, 3, 3) instead of (64, 3, 7, 7)")


def test_a_shape_of_no_known_net(folder: Path) -> None:
    path = imagenet_file(
        folder / "net.pth", meta_resnet(18, num_classes=3), **{"conv1.weight": torch.zeros(64, 1, 7, 7)}
    )
    message = refusal(path, family="imagenet", shortcut="B", depth=18)
    assert message.endswith("resnet18: 1 of another shape: conv1.weight (64, 1, 7, 7) instead of (64, 3, 7, 7)")


def test_names_of_another_network(folder: Path) -> None:
    torch.save(nn.Sequential(nn.Linear(4, 3)).state_dict(), folder / "net.pth")
    message = refusal(folder / "net.pth")
    assert "no tensor in it is called conv1.weight, with or without a prefix" in message
    assert "it holds 0.weight, 0.bias" in message
    names = ("conv1.weight", "bn1.weight", "layer1.0.mlp.weight")
    torch.save({"fc.weight": torch.zeros(3, 64)} | {name: torch.zeros(1) for name in names}, folder / "net.pth")
    message = refusal(folder / "net.pth")
    assert "does not fit resnet8-cifar: " in message
    assert "looks like" not in message


@pytest.mark.parametrize("nested", [True, False])
def test_several_networks_in_one_file(folder: Path, state: State, nested: bool) -> None:
    both: dict[str, Any] = {f"student.{name}": tensor for name, tensor in state.items()}
    both |= {f"teacher.{name}": tensor.clone() for name, tensor in state.items()}
    if nested:
        both = {"student": state, "teacher": {name: tensor.clone() for name, tensor in state.items()}}
    torch.save(both, folder / "net.pth")
    message = refusal(folder / "net.pth")
    assert "holds several networks, under student, teacher, and nothing tells which to take: save" in message


def test_one_network_under_two_names(folder: Path, state: State) -> None:
    torch.save({"model": dict(state), "net": prefixed(state, "module.")}, folder / "net.pth")
    assert_same(load(folder / "net.pth"), state)


@pytest.mark.parametrize(("taken", "aside"), [("best_model", "model"), ("model_ema", "best_model"), ("ema", "net")])
def test_what_is_left_aside_is_said(
    folder: Path, state: State, taken: str, aside: str, caplog: pytest.LogCaptureFixture
) -> None:
    others = {name: torch.zeros_like(tensor) for name, tensor in state.items()}
    torch.save({aside: others, taken: state}, folder / "net.pth")
    with caplog.at_level(logging.INFO):
        assert_same(load(folder / "net.pth"), state)
    assert f"using the weights under {taken!r}; left aside: the weights under {aside!r}" in caplog.text


def test_a_depth_there_is_not(folder: Path, state: State) -> None:
    torch.save(state, folder / "net.pth")
    with pytest.raises(InputError, match="depth 6n\\+2"):
        load(folder / "net.pth", depth=9)


# --- files that are refused ----------------------------------------------------------------------------------------


class RunsCode:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return os.mkdir, (str(self.marker),)


@pytest.mark.parametrize("zipped", [True, False])
def test_pickled_code_is_not_run(folder: Path, state: State, zipped: bool) -> None:
    path, marker = folder / "net.pth", folder / "it-ran"
    torch.save({"state_dict": state, "x": RunsCode(marker)}, path, _use_new_zipfile_serialization=zipped)
    message = refusal(path)
    for part in ("refused", "mkdir", "can run any code", "net.state_dict()", ".safetensors"):
        assert part in message
    assert not marker.exists()


def test_a_whole_module(folder: Path) -> None:
    torch.save(cifar_resnet(8, num_classes=3), folder / "net.pth")
    message = refusal(folder / "net.pth")
    for part in ("refused", "`model_export.resnet.ResNet`", "a whole module", "can run any code", "net.state_dict()"):
        assert part in message


def test_a_missing_file(tmp_path: Path) -> None:
    assert "does not exist" in refusal(tmp_path / "net.pth")


def test_damaged_files(folder: Path, state: State) -> None:
    torch.save(state, folder / "zip.pth")
    torch.save(state, folder / "old.pth", _use_new_zipfile_serialization=False)
    save_file(state, folder / "net.safetensors")
    for path in (folder / "zip.pth", folder / "old.pth", folder / "net.safetensors"):
        whole = path.read_bytes()
        for length in (len(whole) - 100, len(whole) // 2, 1000, 5):
            path.write_bytes(whole[:length])
            message = refusal(path)
            assert f"is cut short at {length} bytes" in message or "not a whole safetensors file" in message
            assert message.endswith(": copy or download it again")


@pytest.mark.parametrize(
    "change", [lambda raw: raw.replace(b"storage", b"storagf"), lambda raw: raw[:80] + b"\xff" * 9]
)
def test_damaged_content(folder: Path, state: State, change: Callable[[bytes], bytes]) -> None:
    torch.save(state, folder / "net.pth", _use_new_zipfile_serialization=False)
    raw = (folder / "net.pth").read_bytes()
    changed = change(raw)
    (folder / "net.pth").write_bytes(changed + raw[len(changed) :])
    message = refusal(folder / "net.pth")
    assert "is damaged" in message
    assert "\n" not in message
    assert "weights_only" not in message


def test_a_pickle_protocol_that_is_not_read_safely(folder: Path, state: State) -> None:
    torch.save(state, folder / "net.pth", pickle_protocol=4)
    message = refusal(folder / "net.pth")
    assert "was saved in a way that is not read safely (Unsupported operand 149)" in message
    assert "\n" not in message


@pytest.mark.filterwarnings("ignore")  # of torch: sparse tensors are a beta
@pytest.mark.parametrize(
    ("change", "kind"),
    [
        (lambda tensor: tensor.to("meta"), "on the meta device, without values"),
        (lambda tensor: tensor.to_sparse(), "sparse_coo"),
        (lambda tensor: tensor.to_sparse_csr(), "sparse_csr"),
        (lambda tensor: torch.nested.nested_tensor([tensor]), "nested"),
    ],
)
def test_tensors_that_are_no_plain_numbers(
    folder: Path, state: State, change: Callable[[Tensor], Tensor], kind: str
) -> None:
    torch.save({**state, "fc.weight": change(state["fc.weight"])}, folder / "net.pth")
    assert f"has tensors that are not plain numbers: fc.weight ({kind}); save them dense" in refusal(folder / "net.pth")


@pytest.mark.filterwarnings("ignore")  # of torch: quantised tensors are deprecated
def test_quantised_weights(folder: Path, state: State) -> None:
    quantised = torch.quantize_per_tensor(state["fc.weight"], 0.1, 0, torch.qint8)
    torch.save({**state, "fc.weight": quantised}, folder / "net.pth")
    assert "perhaps quantised: fc.weight torch.qint8" in refusal(folder / "net.pth")


def test_the_content_decides_and_not_the_name(folder: Path, state: State) -> None:
    save_file(state, folder / "net.bin")
    assert_same(load(folder / "net.bin"), state)
    torch.save(state, folder / "net.safetensors")
    assert_same(load(folder / "net.safetensors"), state)


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (torch.zeros(3), "holds a Tensor, not a state dict"),
        ([1], "holds a list, not a state dict"),
        ({}, "holds no weights of a ResNet"),
        ({}, "it holds nothing"),
        ({"epoch": 3, "fc.weight": torch.zeros(3, 3)}, "it holds epoch, fc.weight"),
    ],
)
def test_no_state_dict(folder: Path, content: object, fault: str) -> None:
    torch.save(content, folder / "net.pth")
    message = refusal(folder / "net.pth")
    assert fault in message
    assert "net.state_dict()" in message


def test_arrays_instead_of_tensors(folder: Path, state: State) -> None:
    torch.save({"model": {name: tensor.numpy() for name, tensor in state.items()}}, folder / "net.pth")
    assert "holds arrays of NumPy, not tensors: save each as `torch.from_numpy(array)`" in refusal(folder / "net.pth")


def test_integer_weights(folder: Path, state: State) -> None:
    torch.save({**state, "conv1.weight": state["conv1.weight"].to(torch.int8)}, folder / "net.pth")
    message = refusal(folder / "net.pth")
    for part in ("not floating point", "conv1.weight torch.int8", "float32"):
        assert part in message


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite(folder: Path, state: State, value: float) -> None:
    broken = state["fc.bias"].clone()
    broken[1] = value
    torch.save({**state, "fc.bias": broken}, folder / "net.pth")
    message = refusal(folder / "net.pth")
    assert "NaN or infinite" in message
    assert "fc.bias" in message


@pytest.mark.parametrize("shape", [(3,), (0, 64)])
def test_a_classifier_without_classes(folder: Path, state: State, shape: tuple[int, ...]) -> None:
    torch.save({**state, "fc.weight": torch.zeros(shape)}, folder / "net.pth")
    assert "no classifier `fc.weight` of shape (classes, features)" in refusal(folder / "net.pth")


# --- labels --------------------------------------------------------------------------------------------------------


def test_labels_that_are_given_come_before_those_beside(folder: Path, state: State) -> None:
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
def test_what_does_not_name_the_classes_is_passed_over(folder: Path, state: State, beside: dict[str, Any]) -> None:
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
    assert "names its classes in classes and, differently, in idx_to_class: pass the right ones" in message


def test_our_record_comes_before_other_names(folder: Path, state: State) -> None:
    record = {"depth": 8, "family": "cifar", "variant": "v1.5", "shortcut": "A", "num_classes": 3}
    labels = [{"name": name} for name in ("rot", "grün", "blau")]
    torch.save({"architecture": record, "labels": labels, "classes": NAMES, "state_dict": state}, folder / "net.pth")
    assert [label.name for label in load_file(folder / "net.pth").labels] == ["rot", "grün", "blau"]


def test_nothing_names_the_classes(tmp_path: Path, state: State) -> None:
    torch.save(state, tmp_path / "net.pth")
    message = refusal(tmp_path / "net.pth")
    for part in ("3 classes", "`--labels FILE`", "labels.txt, labels.json, labels.tsv"):
        assert part in message


def test_a_thousand_classes_are_taken_for_imagenets(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = imagenet_file(tmp_path / "net.pth", meta_resnet(18))
    assert load_file(path, depth=18).labels[0].name == "tench"
    assert "net.pth has 1000 classes and comes without labels: taking them for ImageNet's" in caplog.text


def test_one_error_to_catch() -> None:
    assert issubclass(Unavailable, InputError)
