"""Writes a network as timm or torchvision read it: the weights, the class names and the preprocessing."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import save
from torch import Tensor

from model_export.errors import InputError
from model_export.weights.loading import Loaded
from service.runtime.model_card import Label
from service.runtime.preprocessing import Preprocessing

Target = Literal["timm", "torchvision"]

# Fields of the preprocessing that both have a place for.
WRITTEN = ("resize", "crop", "interpolation", "mean", "std")

STRIDE = 32  # of the last feature map


def check_convertible(loaded: Loaded, target: Target) -> None:
    """Raises InputError if the target has no such network, or cannot say how its images are prepared.

    Its own network would take the weights of some, and silently compute something else.
    """
    architecture, preprocessing = loaded.net.architecture, loaded.preprocessing
    further = preprocessing.model_dump(exclude=set(WRITTEN), exclude_defaults=True)
    if architecture.family != "imagenet":
        fault = "a CIFAR net, and its networks are those for ImageNet"
    elif architecture.shortcut is None:
        fault = "a plain net, and its networks have shortcuts"
    elif architecture.shortcut != "B":
        fault = f"a network with shortcut {architecture.shortcut}, and it has option B only"
    elif architecture.has_bottlenecks and architecture.variant != "v1.5":
        fault = (
            "a v1 network, and its bottlenecks have their stride in the 3x3 convolution (v1.5): it would load the "
            "weights and silently give other answers"
        )
    elif loaded.head.multi_label:
        fault = "a multi-label network, and its files cannot say so: softmax would be taken of its logits"
    elif preprocessing.fit == "crop" and not preprocessing.cuts_a_square:
        fault = (
            f"a network for images of {preprocessing.width} x {preprocessing.height} pixels, and its own are squares"
        )
    elif further:
        fields = ", ".join(f"{field} {value}" for field, value in further.items())
        fault = f"a network whose images are prepared with {fields}, and its files cannot say so"
    else:
        return
    raise InputError(
        f"{loaded.weights.source} cannot be converted for {target}: it holds {fault}. Nothing was written; publish it "
        "with `python -m model_export export` instead"
    )


def write_for_timm(loaded: Loaded, folder: Path) -> None:
    """Writes `model.safetensors` and `config.json`, which `timm.create_model("local-dir:FOLDER")` reads.

    Classes with WordNet ids are named by them and described by their names, as timm does with ImageNet's.

    Raises:
        OSError: a file cannot be written.
    """
    (folder / "model.safetensors").write_bytes(save(_tensors(loaded), {"format": "pt"}))
    _write_json(_timm_config(loaded), folder / "config.json")


def write_for_torchvision(loaded: Loaded, folder: Path) -> None:
    """Writes `<name>.pth`, `labels.json` and `transforms.json`.

    The latter holds the arguments of `torchvision.transforms._presets.ImageClassification`, with the filter by name.

    Raises:
        OSError: a file cannot be written.
    """
    buffer = io.BytesIO()  # on a full disk, `torch.save` to a file raises no OSError, or aborts
    torch.save(_tensors(loaded), buffer)
    (folder / f"{loaded.net.architecture.name}.pth").write_bytes(buffer.getbuffer())
    _write_json([label.name for label in loaded.labels], folder / "labels.json")
    _write_json(_torchvision_transforms(loaded.preprocessing), folder / "transforms.json")


def _tensors(loaded: Loaded) -> dict[str, Tensor]:
    """The state dict: our parameter names are torchvision's, and timm's."""
    return {name: tensor.contiguous() for name, tensor in loaded.net.state_dict().items()}


def _timm_config(loaded: Loaded) -> dict[str, Any]:
    architecture, preprocessing = loaded.net.architecture, loaded.preprocessing
    crop, classes = preprocessing.height, architecture.num_classes
    pretrained: dict[str, Any] = {
        "tag": "converted",
        "input_size": [3, crop, crop],
        "fixed_input_size": False,
        "interpolation": preprocessing.interpolation,
        "crop_pct": crop_share(preprocessing),
        "crop_mode": "center",
        "mean": preprocessing.mean,
        "std": preprocessing.std,
        "num_classes": classes,
        "pool_size": [math.ceil(crop / STRIDE)] * 2,
        "first_conv": "conv1",
        "classifier": "fc",
    }
    if loaded.weights.license:
        pretrained["license"] = loaded.weights.license
    return {
        "architecture": architecture.name,
        "num_classes": classes,
        "num_features": loaded.net.fc.in_features,
        "global_pool": "avg",
        **_timm_names(loaded.labels),
        "pretrained_cfg": pretrained,
    }


def _timm_names(labels: tuple[Label, ...]) -> Mapping[str, Any]:
    ids = [label.wnid for label in labels if label.wnid]
    if len(ids) < len(labels):
        return {"label_names": [label.name for label in labels]}
    return {"label_names": ids, "label_descriptions": {label.wnid: label.name for label in labels}}


def crop_share(preprocessing: Preprocessing) -> float:
    """timm's `crop_pct`, from which timm computes `floor(crop / crop_pct)` as the size to resize to."""
    share = preprocessing.height / preprocessing.resize
    if math.floor(preprocessing.height / share) == preprocessing.resize:
        return share
    return preprocessing.height / (preprocessing.resize + 0.5)  # far from where rounding errors matter


def _torchvision_transforms(preprocessing: Preprocessing) -> dict[str, Any]:
    return {
        "crop_size": preprocessing.crop,
        "resize_size": preprocessing.resize,
        "mean": preprocessing.mean,
        "std": preprocessing.std,
        "interpolation": preprocessing.interpolation,
    }


def _write_json(content: object, path: Path) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
