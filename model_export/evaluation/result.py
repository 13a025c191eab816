"""The predictions of one model on one data set: the input of every metric, plot and report."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

# The views of an image that are averaged: the centre crop; ten crops, or the whole image at five scales (section 3.4).
Method = Literal["1-crop", "10-crop", "multi-scale"]


@dataclass(frozen=True, eq=False)
class Evaluation:
    """One model's predictions, in the order of the data set.

    Attributes:
        model: a name to show: "runs/x/best.safetensors", "resnet18 2 (openvino, bf16)".
        dataset: the data set's name.
        classes: the model's class names, by class id.
        labels: int64 (N,), the true class ids.
        probabilities: float32 (N, classes); the mean softmax of an image's views.
    """

    model: str
    dataset: str
    method: Method
    classes: tuple[str, ...]
    labels: np.ndarray
    probabilities: np.ndarray
