"""Folders of timm and of transformers: the weights, and what the files beside them say."""

from __future__ import annotations

import json
import logging
import re
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from model_export.errors import InputError
from model_export.weights.loading import Loaded, load_file
from service.runtime.images.resizing import network_view, to_array
from service.runtime.preprocessing import Preprocessing
from tests.model_export.weights.test_hub_preprocessing import CONVNEXT
from tests.model_export.weights.weight_files import as_transformers, imagenet_file, meta_resnet

NAMES = ["red", "green", "blue"]

TIMM = {
    "architecture": "resnet18",
    "num_classes": 3,
    "num_features": 512,
    "global_pool": "avg",
    "label_names": NAMES,
    "model_args": {"num_classes": 3, "in_chans": 3, "global_pool": "avg"},
    "pretrained_cfg": {
        "tag": "a1_in1k",
        "input_size": [3, 224, 224],
        "test_input_size": [3, 288, 288],
        "interpolation": "bicubic",
        "crop_pct": 0.95,
        "crop_mode": "center",
        "mean": [0.5, 0.5, 0.5],
        "std": [0.25, 0.25, 0.25],
        "license": "apache-2.0",
    },
}

TRANSFORMERS = {
    "architectures": ["ResNetForImageClassification"],
    "model_type": "resnet",
    "depths": [2, 2, 2, 2],
    "hidden_sizes": [64, 128, 256, 512],
    "layer_type": "basic",
    "id2label": {"0": "red", "1": "green", "2": "blue"},
}
BOTTLENECK = {"depths": [3, 4, 6, 3], "hidden_sizes": [256, 512, 1024, 2048], "layer_type": "bottleneck"}


def timm_folder(folder: Path, config: dict[str, Any], depth: int = 18) -> Path:
    """A folder with zeros for weights. Returns the weight file."""
    (folder / "config.json").write_text(json.dumps(config))
    return imagenet_file(folder / "pytorch_model.bin", meta_resnet(depth, num_classes=3))


def transformers_folder(
    folder: Path, config: dict[str, Any], processor: dict[str, Any] | None = CONVNEXT, depth: int = 18
) -> Path:
    path = timm_folder(folder, config)
    state = meta_resnet(depth, num_classes=3).state_dict()
    torch.save({as_transformers(name): torch.zeros(()).expand(one.shape) for name, one in state.items()}, path)
    if processor is not None:
        (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    return path


def names(loaded: Loaded) -> list[str]:
    return [label.name for label in loaded.labels]


def test_a_folder_of_timm(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        loaded = load_file(timm_folder(tmp_path, TIMM))
    assert loaded.net.architecture == meta_resnet(18, num_classes=3).architecture
    assert names(loaded) == NAMES
    half, quarter = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)
    assert loaded.preprocessing == Preprocessing(resize=235, interpolation="bicubic", mean=half, std=quarter)
    assert (loaded.weights.source, loaded.weights.license) == ("timm resnet18.a1_in1k, pytorch_model.bin", "apache-2.0")
    assert "pytorch_model.bin: the config.json beside it says what it holds" in caplog.text


def test_the_older_form_of_timm(tmp_path: Path) -> None:
    older = {"architecture": "resnet18", "crop_pct": 0.95, "interpolation": "bilinear", "labels": NAMES}
    loaded = load_file(timm_folder(tmp_path, older))
    assert names(loaded) == NAMES
    assert loaded.preprocessing == Preprocessing(resize=235)


@pytest.mark.parametrize("name", ["resnet50", "tv_resnet50", "gluon_resnet50_v1b"])
def test_bottlenecks_of_timm_need_no_variant(tmp_path: Path, name: str) -> None:
    loaded = load_file(timm_folder(tmp_path, {**TIMM, "architecture": name}, depth=50))
    assert (loaded.net.architecture.depth, loaded.net.architecture.variant) == (50, "v1.5")


def test_wordnet_ids_of_timm_are_described(tmp_path: Path) -> None:
    ids = ["n01440764", "n01443537", "n01484850"]
    described = {"label_names": ids, "label_descriptions": {ids[0]: "tench", ids[1]: "goldfish"}}
    loaded = load_file(timm_folder(tmp_path, TIMM | described))
    assert [(label.name, label.wnid) for label in loaded.labels] == [
        ("tench", ids[0]),
        ("goldfish", ids[1]),
        (ids[2], ids[2]),
    ]


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"architecture": "resnetaa18"}, "describes a network with architecture resnetaa18, which is not supported"),
        ({"architecture": "resnetblur18"}, "architecture resnetblur18"),
        ({"global_pool": "catavgmax"}, "global_pool catavgmax"),
        ({"model_args": {"aa_layer": "avg"}}, "aa_layer avg"),
        ({"model_args": {"in_chans": 1}}, "in_chans 1"),
        ({"label_names": ["red", "red", "blue"]}, "label_names that do not name every class once"),
        ({"label_names": ["red", "blue"]}, "names 2 classes, but"),
        ({"pretrained_cfg": {"crop_mode": "squash"}}, "asks for crop_mode squash"),
    ],
)
def test_what_is_not_supported_of_timm(tmp_path: Path, change: dict[str, Any], fault: str) -> None:
    path = timm_folder(tmp_path, TIMM | change)
    with pytest.raises(InputError, match=re.escape(fault)) as caught:
        load_file(path)
    assert str(tmp_path / "config.json") in str(caught.value)


def test_options_that_contradict_the_folder(tmp_path: Path) -> None:
    path = timm_folder(tmp_path, TIMM)
    with pytest.raises(InputError, match=r"records depth 18, but 34 was requested: pass `--depth 18`"):
        load_file(path, depth=34)


def test_given_labels_come_first(tmp_path: Path) -> None:
    path = timm_folder(tmp_path, TIMM)
    (tmp_path / "colours.txt").write_text("rot\ngruen\nblau\n")
    assert names(load_file(path, labels=tmp_path / "colours.txt")) == ["rot", "gruen", "blau"]


@pytest.mark.parametrize(
    ("config", "name"),
    [(TIMM, "net.pth"), ({"model_type": "vit"}, "pytorch_model.bin"), ({"lr": 0.1}, "pytorch_model.bin")],
)
def test_other_files_say_nothing(tmp_path: Path, config: dict[str, Any], name: str) -> None:
    path = timm_folder(tmp_path, config).rename(tmp_path / name)
    with pytest.raises(InputError, match="does not record which network it holds: pass `--depth`"):
        load_file(path)


@pytest.mark.parametrize("text", ["", "[]", "{", "[" * 100_000])
def test_a_config_that_is_no_json_object(tmp_path: Path, text: str) -> None:
    path = timm_folder(tmp_path, TIMM)
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(InputError, match="does not record which network it holds"):
        load_file(path)


def test_a_folder_of_transformers(tmp_path: Path) -> None:
    loaded = load_file(transformers_folder(tmp_path, TRANSFORMERS))
    assert loaded.net.architecture == meta_resnet(18, num_classes=3).architecture
    assert names(loaded) == NAMES
    assert loaded.preprocessing == Preprocessing(interpolation="bicubic")
    assert loaded.weights.source == "transformers resnet-18, pytorch_model.bin"


@pytest.mark.parametrize(("in_first", "variant"), [(False, "v1.5"), (True, "v1")])
def test_the_stride_of_transformers_bottlenecks(tmp_path: Path, in_first: bool, variant: str) -> None:
    config = {**TRANSFORMERS, **BOTTLENECK, "downsample_in_bottleneck": in_first}
    loaded = load_file(transformers_folder(tmp_path, config, depth=50))
    assert (loaded.net.architecture.depth, loaded.net.architecture.variant) == (50, variant)


def test_no_preprocessing_in_transformers_folder(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    loaded = load_file(transformers_folder(tmp_path, TRANSFORMERS, None))
    assert loaded.preprocessing == Preprocessing()
    assert "no preprocessor_config.json beside it: taking the usual preprocessing" in caplog.text


def test_placeholders_are_no_names(tmp_path: Path) -> None:
    config = TRANSFORMERS | {"id2label": {str(i): f"LABEL_{i}" for i in range(3)}}
    with pytest.raises(InputError, match="3 classes and no labels"):
        load_file(transformers_folder(tmp_path, config))


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"depths": [1, 1, 1, 1]}, "depths [1, 1, 1, 1] of layer_type basic"),
        ({"hidden_act": "gelu"}, "hidden_act gelu"),
        ({"downsample_in_first_stage": True}, "downsample_in_first_stage True"),
        ({"hidden_sizes": [32, 64, 128, 256]}, "hidden_sizes [32, 64, 128, 256]"),
        ({"id2label": {"0": "red", "1": "red"}}, "id2label that does not name every class once"),
        ({"hidden_sizes": None}, "hidden_sizes (256, 512, 1024, 2048)"),  # transformers' default, with basic blocks
        ({"depths": "deep"}, "invalid depths"),
    ],
)
def test_what_is_not_supported_of_transformers(tmp_path: Path, change: dict[str, Any], fault: str) -> None:
    path = transformers_folder(tmp_path, TRANSFORMERS | change)
    with pytest.raises(InputError, match=re.escape(fault)):
        load_file(path)


def randomised(net: torch.nn.Module) -> torch.nn.Module:
    """The network with statistics of real activations in its batch norms, in evaluation mode."""
    torch.manual_seed(0)
    with torch.no_grad():
        net.train()(torch.randn(4, 3, 64, 64))
    return net.eval()


def logits(loaded: Loaded, image: Image.Image) -> torch.Tensor:
    pixels = to_array(network_view(image, loaded.preprocessing))
    with torch.inference_mode():
        return loaded.serving_graph()(torch.from_numpy(np.ascontiguousarray(pixels))[None])[0]


@pytest.fixture
def image(photo: bytes) -> Image.Image:
    return Image.open(BytesIO(photo)).convert("RGB")


@pytest.mark.parametrize("name", ["resnet18", "resnet50.tv_in1k"])
def test_the_real_timm(tmp_path: Path, image: Image.Image, name: str) -> None:
    timm = pytest.importorskip("timm")
    net = randomised(timm.create_model(name, num_classes=3))
    timm.models._hub.save_for_hf(net, tmp_path, {"label_names": NAMES}, safe_serialization=True)
    loaded = load_file(tmp_path / "model.safetensors")
    assert names(loaded) == NAMES
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(net))
    with torch.inference_mode():
        theirs = net(transform(image)[None])
    torch.testing.assert_close(logits(loaded, image), theirs, rtol=0, atol=1e-2 * float(theirs.std()))


@pytest.mark.parametrize("config", [TRANSFORMERS, BOTTLENECK, BOTTLENECK | {"downsample_in_bottleneck": True}])
def test_the_real_transformers(tmp_path: Path, image: Image.Image, config: dict[str, Any]) -> None:
    transformers = pytest.importorskip("transformers")
    fields = {name: value for name, value in config.items() if name not in ("architectures", "model_type")}
    fields["id2label"] = dict(enumerate(NAMES))
    net = transformers.ResNetForImageClassification(transformers.ResNetConfig(**fields))
    randomised(net).save_pretrained(tmp_path)
    processor = transformers.ConvNextImageProcessor(size={"shortest_edge": 224})
    processor.save_pretrained(tmp_path)
    loaded = load_file(tmp_path / "model.safetensors")
    assert names(loaded) == NAMES
    with torch.inference_mode():
        theirs = net(**processor(image, return_tensors="pt")).logits
    torch.testing.assert_close(logits(loaded, image), theirs, rtol=0, atol=1e-2 * float(theirs.std()))
