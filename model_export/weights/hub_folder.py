"""What timm's or transformers' files beside a weight file say about it: network, class names, preprocessing."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from model_export.errors import InputError
from model_export.nets.resnet import IMAGENET_BLOCKS
from model_export.weights.description import Description
from model_export.weights.hub_preprocessing import parse, timm_preprocessing, transformers_preprocessing
from model_export.weights.labels import labels_in
from service.runtime.model_card import Architecture, Label

log = logging.getLogger(__name__)

WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")  # what both call the weights that `config.json` describes
CONFIG = "config.json"
PROCESSOR = "preprocessor_config.json"  # transformers'

# timm's names of the networks of this project; it has dozens more, some with weights of the same names and shapes
# (resnetaa50, resnetblur50). The prefixes are of older releases.
TIMM_NAME = re.compile(r"(?:tv_|gluon_|ssl_|swsl_)?resnet(18|34|50|101|152)(?:_v1b)?")

# Arguments of timm's networks that do not change what they compute in evaluation, and the usual values of others.
HARMLESS_ARGUMENTS = {"num_classes", "drop_rate", "drop_path_rate", "drop_block_rate", "zero_init_last"}
USUAL_ARGUMENTS = {"in_chans": 3, "global_pool": "avg", "output_stride": 32}

WORDNET_ID = re.compile(r"n\d{8}")
PLACEHOLDER = re.compile(r"LABEL_\d+")  # transformers' name of a class without one


class _TransformersConfig(BaseModel):
    """Fields of transformers' `ResNetConfig`, with its defaults."""

    model_config = ConfigDict(frozen=True)

    num_channels: int = 3
    embedding_size: int = 64
    hidden_sizes: tuple[int, ...] = (256, 512, 1024, 2048)
    depths: tuple[int, ...] = (3, 4, 6, 3)
    layer_type: str = "bottleneck"
    hidden_act: str = "relu"
    downsample_in_first_stage: bool = False
    downsample_in_bottleneck: bool = False
    id2label: dict[str, str] = {}


def read_hub_folder(weights: Path, num_classes: int) -> Description | None:
    """What timm or transformers wrote beside a weight file; None if neither did.

    Args:
        weights: the weight file, which is one of `WEIGHT_FILES`, or nothing is read.
        num_classes: of its classifier.

    Raises:
        InputError: the files describe a network or preprocessing that is not supported, or are invalid.
    """
    path = weights.with_name(CONFIG)
    if weights.name not in WEIGHT_FILES or (content := _json_object(path)) is None:
        return None
    if isinstance(content.get("architecture"), str):
        found = _timm(content, path, num_classes)
    elif content.get("model_type") == "resnet":
        found = _transformers(content, path, num_classes)
    else:
        return None
    if found.labels is not None and len(found.labels) != num_classes:
        raise InputError(
            f"{path} names {len(found.labels)} classes, but {weights} has {num_classes}: they do not belong together; "
            f"fetch both files again, or move {path.name} away"
        )
    log.info("%s: the %s beside it says what it holds", weights.name, CONFIG)
    return found._replace(source=f"{found.source}, {weights.name}")


def _json_object(path: Path) -> dict[str, Any] | None:
    """The object in a JSON file; None if the file is missing, or holds anything else."""
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    return content if isinstance(content, dict) else None


def _timm(content: Mapping[str, Any], path: Path, num_classes: int) -> Description:
    """From timm's config.json, in the present form or the older one without `pretrained_cfg`."""
    nested = content.get("pretrained_cfg")
    fields = {**content, **nested} if isinstance(nested, Mapping) else content
    match = TIMM_NAME.fullmatch(content["architecture"])
    if match is None:
        raise _unsupported(path, "architecture", content["architecture"])
    arguments = content.get("model_args")
    given = [
        ("global_pool", content.get("global_pool")),
        *(arguments.items() if isinstance(arguments, Mapping) else ()),
    ]
    for argument, value in given:
        if argument not in HARMLESS_ARGUMENTS and value not in (None, USUAL_ARGUMENTS.get(argument)):
            raise _unsupported(path, argument, value)
    names = next((fields[key] for key in ("label_names", "labels") if fields.get(key)), None)
    tag = fields.get("tag")
    return Description(
        f"timm {match[0]}" + (f".{tag}" if isinstance(tag, str) and tag else ""),
        Architecture(depth=int(match[1]), num_classes=num_classes),
        _timm_labels(names, fields.get("label_descriptions"), path),
        timm_preprocessing(fields, path),
        fields.get("license") if isinstance(fields.get("license"), str) else None,
    )


def _timm_labels(names: object, descriptions: object, path: Path) -> tuple[Label, ...] | None:
    """timm names ImageNet's classes by WordNet ids, which it describes elsewhere."""
    if names is None:
        return None
    labels = labels_in(names)
    if labels is None:
        raise InputError(f"{path} has label_names that do not name every class once: correct them, or remove them")
    if isinstance(descriptions, Mapping) and all(WORDNET_ID.fullmatch(label.name) for label in labels):
        return tuple(Label(name=str(descriptions.get(one.name, one.name)), wnid=one.name) for one in labels)
    return labels


def _transformers(content: Mapping[str, Any], path: Path, num_classes: int) -> Description:
    """From transformers' config.json, and its preprocessor_config.json if it is there."""
    config = parse(_TransformersConfig, content, path)
    basic = config.layer_type == "basic"
    usual = _TransformersConfig(hidden_sizes=(64, 128, 256, 512)) if basic else _TransformersConfig()
    for field in ("num_channels", "embedding_size", "hidden_sizes", "hidden_act", "downsample_in_first_stage"):
        if getattr(config, field) != getattr(usual, field):
            raise _unsupported(path, field, content.get(field) or getattr(config, field))
    fitting = [d for d, blocks in IMAGENET_BLOCKS.items() if blocks == config.depths and basic == (d < 50)]
    if not fitting:
        raise _unsupported(path, "depths", f"{list(config.depths)} of layer_type {config.layer_type}")
    named = not all(PLACEHOLDER.fullmatch(name) for name in config.id2label.values())
    labels = labels_in(config.id2label) if named else None
    if named and labels is None:
        raise InputError(f"{path} has an id2label that does not name every class once: correct it, or remove it")
    processor = path.with_name(PROCESSOR)
    fields = _json_object(processor)
    if fields is None:
        log.warning("%s: no %s beside it: taking the usual preprocessing", path, PROCESSOR)
    return Description(
        f"transformers resnet-{fitting[0]}",
        Architecture(
            depth=fitting[0], variant="v1" if config.downsample_in_bottleneck else "v1.5", num_classes=num_classes
        ),
        labels,
        None if fields is None else transformers_preprocessing(fields, processor),
        None,
    )


def _unsupported(path: Path, field: str, value: object) -> InputError:
    return InputError(
        f"{path} describes a network with {field} {value}, which is not supported: pass weights of a ResNet of depth "
        f"{', '.join(map(str, IMAGENET_BLOCKS))} as torchvision has it"
    )
