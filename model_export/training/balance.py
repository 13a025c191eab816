"""Making up for classes of different sizes: weights of the loss, or an epoch with equally many images of each class."""

from __future__ import annotations

import numpy as np


def class_weights(labels: np.ndarray, classes: int) -> np.ndarray:
    """Weights in inverse proportion to the images of a class: float32 (classes,).

    Their mean over the images is 1, so the loss keeps its scale. A class without images has weight 1.

    Args:
        labels: int64 (N,).
    """
    counts = np.bincount(labels, minlength=classes)
    present = np.count_nonzero(counts)
    weights = np.divide(len(labels), present * counts, out=np.ones(classes), where=counts > 0)
    return weights.astype(np.float32)


def presence_weights(labels: np.ndarray) -> np.ndarray:
    """Weights with which a class counts as much where it is present as where it is not: float32 (classes,).

    A class that every image has, or none, has weight 1.

    Args:
        labels: float32 (N, classes), 1 for the classes of an image.
    """
    present = labels.sum(axis=0, dtype=np.float64)
    absent = len(labels) - present
    weights = np.divide(absent, present, out=np.ones(len(present)), where=(present > 0) & (absent > 0))
    return weights.astype(np.float32)


def balanced_epoch(labels: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """As many images as there are, in random order, with equally many of every class (but for one).

    No image comes again before all others of its class have come.

    Args:
        labels: int64 (N,).

    Returns:
        int64 (N,): indices of images; and int64 (N,): how often each of them has been drawn for this epoch before.
    """
    present = np.unique(labels)
    quotas = np.full(len(present), len(labels) // len(present))
    quotas[rng.permutation(len(present))[: len(labels) % len(present)]] += 1
    images, times = [], []
    for label, quota in zip(present, quotas, strict=True):
        members = np.flatnonzero(labels == label)
        rounds = -(-quota // len(members))
        images.append(np.concatenate([rng.permutation(members) for _ in range(rounds)])[:quota])
        times.append(np.repeat(np.arange(rounds), len(members))[:quota])
    order = rng.permutation(len(labels))
    return np.concatenate(images)[order], np.concatenate(times)[order]
