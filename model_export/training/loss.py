"""The loss of a recipe."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from model_export.training.balance import class_weights
from model_export.training.recipe import Recipe


class Loss:
    """Cross-entropy with soft targets, the recipe's label smoothing and its class weights.

    With class weights the sum over a batch is divided by the number of images, not by the sum of their weights: so the
    parts of a batch, and those of several processes, add up to the loss of the whole.

    Args:
        labels: int64 (N,), of the training set.
    """

    def __init__(self, recipe: Recipe, labels: np.ndarray, classes: int, device: torch.device) -> None:
        self.label_smoothing = recipe.label_smoothing
        self.weights: Tensor | None = None  # float32 (classes,)
        if recipe.class_weights:
            self.weights = torch.from_numpy(class_weights(labels, classes)).to(device)

    def __call__(self, logits: Tensor, targets: Tensor) -> Tensor:
        """The mean over images: float32 (N, classes) and probabilities, float32 (N, classes) -> ()."""
        return F.cross_entropy(logits, targets, weight=self.weights, label_smoothing=self.label_smoothing)
