"""The predictions of one model on one data set: the input of every metric, plot and report."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Literal

import numpy as np

from service.runtime.scores import softmax

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
        temperature: of these probabilities: that of the model's calibration.
    """

    model: str
    dataset: str
    method: Method
    classes: tuple[str, ...]
    labels: np.ndarray
    probabilities: np.ndarray
    temperature: float = 1.0

    def part(self, indices: np.ndarray) -> Evaluation:
        """The predictions for some of the images; `indices` are int64 (n,)."""
        return dataclasses.replace(self, labels=self.labels[indices], probabilities=self.probabilities[indices])

    def at_temperature(self, temperature: float) -> Evaluation:
        """The same with another calibration: `softmax(logits / temperature)`."""
        probabilities = softmax(log_of(self.probabilities), temperature / self.temperature).astype(np.float32)
        return dataclasses.replace(self, probabilities=probabilities, temperature=temperature)


def log_of(probabilities: np.ndarray) -> np.ndarray:
    """The logarithms, float64; those that float32 rounded to 0 count as its smallest number."""
    return np.asarray(np.log(np.maximum(probabilities.astype(np.float64), np.finfo(np.float32).tiny)))
