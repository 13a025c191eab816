"""The loss, by hand."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F

from model_export.training.loss import Loss
from model_export.training.recipe import override
from model_export.training.recipes import RECIPES

LABELS = np.array([0, 0, 0, 1])
LOGITS = torch.tensor([[2.0, 0.0], [0.5, 1.0], [-1.0, 3.0]])
TARGETS = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.25, 0.75]])


def test_without_weights() -> None:
    loss = Loss(override(RECIPES["paper-cifar"], {}), LABELS, 2, torch.device("cpu"))
    expected = -(TARGETS * LOGITS.log_softmax(1)).sum(1).mean()
    torch.testing.assert_close(loss(LOGITS, TARGETS), expected)


def test_balanced_weights_favour_small_classes_and_parts_add_up() -> None:
    recipe = override(RECIPES["paper-cifar"], {"class_weights": "balanced"})
    loss = Loss(recipe, LABELS, 2, torch.device("cpu"))
    weighted = -(TARGETS * LOGITS.log_softmax(1) * torch.tensor([4 / 2 / 3, 4 / 2 / 1])).sum(1)
    torch.testing.assert_close(loss(LOGITS, TARGETS), weighted.mean())
    parts = (2 * loss(LOGITS[:2], TARGETS[:2]) + loss(LOGITS[2:], TARGETS[2:])) / 3
    torch.testing.assert_close(parts, weighted.mean())


def test_label_smoothing() -> None:
    loss = Loss(override(RECIPES["paper-cifar"], {"label_smoothing": 0.1}), LABELS, 2, torch.device("cpu"))
    torch.testing.assert_close(loss(LOGITS, TARGETS), F.cross_entropy(LOGITS, TARGETS, label_smoothing=0.1))
