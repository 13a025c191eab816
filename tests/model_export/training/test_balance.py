"""Weights of classes, and epochs with equally many images of each."""

from __future__ import annotations

import numpy as np
import pytest

from model_export.training.balance import balanced_epoch, class_weights, presence_weights

LABELS = np.array([1] * 20 + [0] * 7 + [3] * 3)  # none of class 2


def test_weights_are_in_inverse_proportion_to_images() -> None:
    weights = class_weights(LABELS, 4)
    assert weights.dtype == np.float32
    assert weights.tolist() == pytest.approx([30 / 3 / 7, 30 / 3 / 20, 1, 30 / 3 / 3])
    assert weights[LABELS].mean() == pytest.approx(1)


def test_an_epoch_holds_equally_many_images_of_every_class() -> None:
    images, times = balanced_epoch(LABELS, np.random.default_rng(1))
    assert np.bincount(LABELS[images]).tolist() == [10, 10, 0, 10]
    assert sorted(zip(images.tolist(), times.tolist(), strict=True)) == sorted(
        set(zip(images.tolist(), times.tolist(), strict=True))
    )  # no image comes twice for the same time
    counts = np.bincount(images, minlength=30)
    assert counts[:20].max() == 1  # ten of the twenty
    assert sorted(counts[20:27]) == [1, 1, 1, 1, 2, 2, 2]
    assert sorted(counts[27:]) == [3, 3, 4]
    assert LABELS[images].tolist() != sorted(LABELS[images].tolist())


def test_what_is_left_over_goes_to_different_classes() -> None:
    labels = np.array([0] * 9 + [1])
    labels = np.append(labels, 1)
    sizes = {tuple(np.bincount(labels[balanced_epoch(labels, np.random.default_rng(i))[0]])) for i in range(8)}
    assert sizes == {(5, 6), (6, 5)}


def test_presence_weights() -> None:
    labels = np.array([[1, 1, 0], [0, 1, 0], [0, 1, 0], [0, 1, 0]], np.float32)
    found = presence_weights(labels)
    assert found.dtype == np.float32
    assert found.tolist() == [3, 1, 1]
