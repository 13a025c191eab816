"""The metadata of an exported ONNX file: what it takes to use the file without its model card."""

from __future__ import annotations

import importlib.metadata
import json

from model_export.weights.loading import Loaded
from service.runtime.graph import BATCH_DIMENSION, INPUT
from service.runtime.head import HeadKind
from service.runtime.preprocessing import Preprocessing

PROBABILITIES: dict[HeadKind, str] = {
    "softmax": "their softmax is the probabilities",
    "sigmoid": "the sigmoid of each is the probability of its label, whatever the others are",
}


def onnx_metadata(loaded: Loaded, name: str) -> dict[str, str]:
    """The entries of `metadata_props`, by key. Files made from this one, in int8 or fp16, keep them.

    The version of the model is not among them, nor is anything learnt later (accuracy, calibration): versions share
    files.

    - `name`: of the model;
    - `architecture`, `preprocessing`, `weights`: JSON objects with the fields of the model card;
    - `labels`: a JSON list of the class names, in the order of the logits; `wnids`: their WordNet ids, if any;
    - `head`: `softmax` or `sigmoid`;
    - `input`, `output`: sentences for people;
    - `software`: what made the file.

    Args:
        name: of the published model.
    """
    wnids = [label.wnid for label in loaded.labels]
    entries: dict[str, object] = {
        "architecture": loaded.net.architecture.model_dump(mode="json"),
        "labels": [label.name for label in loaded.labels],
        **({"wnids": wnids} if any(wnids) else {}),
        "preprocessing": loaded.preprocessing.model_dump(mode="json"),
        "weights": loaded.weights.model_dump(mode="json", exclude_none=True),
    }
    return {
        "name": name,
        **{key: json.dumps(value, ensure_ascii=False) for key, value in entries.items()},
        "input": (
            f"{INPUT}: uint8 [{', '.join(map(str, (BATCH_DIMENSION, *loaded.preprocessing.shape)))}], "
            f"{in_words(loaded.preprocessing)} The graph itself subtracts the mean and divides by std."
        ),
        "head": loaded.head.kind,
        "output": (
            f"logits: one for each label; {PROBABILITIES[loaded.head.kind]}. embedding: the pooled features. "
            "feature_map: those before pooling."
        ),
        "software": f"resnet-service {importlib.metadata.version('resnet-service')}",
    }


def in_words(preprocessing: Preprocessing) -> str:
    """How to make the input from an upright RGB image, in sentences."""
    p = preprocessing
    channels = "channels in the order RGB" if p.channels == 3 else "one channel, the luma (ITU-R BT.601)"
    size = f"{p.width} x {p.height}"
    fit = {
        "crop": f"Resize the shorter side to {p.resize} pixels ({p.interpolation}) and cut out the centre, {size}.",
        "squash": f"Resize the image to {size} ({p.interpolation}), whatever becomes of its proportions.",
        "letterbox": f"Resize the image into {size} ({p.interpolation}), keep its proportions, centre it, and fill the "
        f"rest with the colour {p.fill}.",
    }[p.fit]
    window = f" Of 16-bit images, {p.window[0]} becomes 0 and {p.window[1]} becomes 255." if p.window else ""
    return f"{channels}, values 0 to 255. {fit}{window}"
