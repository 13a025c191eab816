"""The loss of a recipe."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from model_export.training.balance import class_weights, presence_weights
from model_export.training.recipe import Recipe


class Loss:
    """Cross-entropy with soft targets, the recipe's label smoothing and its class weights.

    Of multi-label images, binary cross-entropy (the mean over classes). Label smoothing then moves targets from both
    ends towards one half, and class weights are factors of the images that have a class.

    With class weights the sum over a batch is divided by the number of images, not by the sum of their weights: so the
    parts of a batch, and those of several processes, add up to the loss of the whole.

    Args:
        labels: int64 (N,), of the training set; multi-label: float32 (N, classes).
    """

    def __init__(self, recipe: Recipe, labels: np.ndarray, classes: int, device: torch.device) -> None:
        self.label_smoothing = recipe.label_smoothing
        self.weights: Tensor | None = None  # float32 (classes,)
        self.multi_label = labels.ndim == 2
        if recipe.class_weights:
            weights = presence_weights(labels) if self.multi_label else class_weights(labels, classes)
            self.weights = torch.from_numpy(weights).to(device)

    def __call__(self, logits: Tensor, targets: Tensor) -> Tensor:
        """The mean over images: float32 (N, classes) and probabilities, float32 (N, classes) -> ()."""
        if self.multi_label:
            smoothed = targets + self.label_smoothing * (0.5 - targets)
            return F.binary_cross_entropy_with_logits(logits, smoothed, pos_weight=self.weights)
        return F.cross_entropy(logits, targets, weight=self.weights, label_smoothing=self.label_smoothing)

    def error(self, logits: Tensor, targets: Tensor) -> Tensor:
        """The share of images whose best class is wrong; multi-label: of classes that are wrongly present or absent."""
        if self.multi_label:
            return ((logits > 0) != (targets > 0.5)).float().mean()
        return (logits.argmax(1) != targets.argmax(1)).float().mean()
