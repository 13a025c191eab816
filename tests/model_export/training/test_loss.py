"""The loss, by hand."""

from __future__ import annotations

import numpy as np
import pytest
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


SEVERAL = np.array([[1, 0], [1, 1], [1, 0], [0, 0]], np.float32)
SOME = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.25, 0.75]])


def test_of_several_labels() -> None:
    loss = Loss(override(RECIPES["paper-cifar"], {}), SEVERAL, 2, torch.device("cpu"))
    p = LOGITS.sigmoid()
    torch.testing.assert_close(loss(LOGITS, SOME), -(SOME * p.log() + (1 - SOME) * (1 - p).log()).mean())
    assert loss.error(LOGITS, SOME).item() == pytest.approx(1 / 6)


def test_of_several_labels_smoothed_and_weighted() -> None:
    recipe = override(RECIPES["paper-cifar"], {"class_weights": "balanced", "label_smoothing": 0.2})
    loss = Loss(recipe, SEVERAL, 2, torch.device("cpu"))
    p, weights, smoothed = LOGITS.sigmoid(), torch.tensor([1 / 3, 3.0]), 0.8 * SOME + 0.1
    expected = -(weights * smoothed * p.log() + (1 - smoothed) * (1 - p).log()).mean()
    torch.testing.assert_close(loss(LOGITS, SOME), expected)


def test_the_error_of_one_label_each() -> None:
    loss = Loss(override(RECIPES["paper-cifar"], {}), LABELS, 2, torch.device("cpu"))
    assert loss.error(LOGITS, torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.25, 0.75]])).item() == pytest.approx(1 / 3)
