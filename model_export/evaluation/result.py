"""What an evaluation leaves behind; every figure, plot and report is made from it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

# How an image is looked at: once, in ten crops (section 3.4 of the paper), or whole at five scales (same section).
Method = Literal["1-crop", "10-crop", "multi-scale"]


@dataclass(frozen=True, eq=False)
class Evaluation:
    """One model's answers to one data set, in the order of the data set.

    Attributes:
        model: for people: "runs/x/best.safetensors", "resnet18 2 (openvino, bf16)".
        dataset: the data set's name.
        classes: the model's class names, by class id.
        labels: int64 (N,), the true class ids.
        probabilities: float32 (N, classes); of several views the mean of their softmax.
    """

    model: str
    dataset: str
    method: Method
    classes: tuple[str, ...]
    labels: np.ndarray
    probabilities: np.ndarray
