"""The metadata of an exported ONNX file: what it takes to use the file without its model card."""

from __future__ import annotations

import importlib.metadata
import json

from model_export.weights.loading import Loaded
from service.runtime.graph import BATCH_DIMENSION, INPUT
from service.runtime.head import HeadKind

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
    crop = loaded.preprocessing.crop
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
            f"{INPUT}: uint8 [{BATCH_DIMENSION}, 3, {crop}, {crop}], channels in the order RGB, values 0 to 255. "
            f"Resize the shorter side to {loaded.preprocessing.resize} pixels ({loaded.preprocessing.interpolation}) "
            f"and cut out the centre, {crop} x {crop}. The graph itself subtracts the mean and divides by std."
        ),
        "head": loaded.head.kind,
        "output": (
            f"logits: one for each label; {PROBABILITIES[loaded.head.kind]}. embedding: the pooled features. "
            "feature_map: those before pooling."
        ),
        "software": f"resnet-service {importlib.metadata.version('resnet-service')}",
    }
