"""The second export gate: refuses a collapsed network, which answers nearly the same to every picture.

Parity proves that ONNX Runtime computes what PyTorch computes, not that the network makes sense.
"""

from __future__ import annotations

import numpy as np

from model_export.drawings.samples import sample_images
from model_export.errors import CheckFailed
from service.runtime.engine import Engine
from service.runtime.head import Head
from service.runtime.preprocessing import Preprocessing

# Smallest accepted spread of the answers. Networks of every family and depth have more than 0.14, untrained ones too.
# A layer of zeros gives 0. Mean and std on the scale 0 to 255, which the card refuses earlier, mostly give less than
# 0.02.
MIN_SPREAD = 0.02

PLAIN = Head()


class Collapsed(CheckFailed):
    """The network answers nearly the same to every picture; nothing is published."""


def check_collapse(engine: Engine, preprocessing: Preprocessing, head: Head = PLAIN) -> float:
    """Checks that the network tells black, white, noise and drawings apart.

    It does not if its mean and std have another scale than in training, or if it has lost a layer.

    Returns:
        The spread of its answers: the median distance to their mean, relative to their own length; for the logits or
        for the embedding, whichever is less. From 0.14 (untrained) to 5 on the networks of the paper.

    Raises:
        Collapsed: the spread is less than `MIN_SPREAD`.
    """
    shape = (1, *preprocessing.shape)
    noise = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    drawings = sample_images(5, preprocessing)
    pictures = np.concatenate([np.zeros(shape, np.uint8), np.full(shape, 255, np.uint8), noise, drawings])
    answers = engine.infer(pictures, ("logits", "embedding"))
    logits = answers["logits"]
    if head.kind == "softmax":  # it ignores a constant added to all logits
        logits = logits - logits.mean(axis=1, keepdims=True)
    spread = min(_spread(logits), _spread(answers["embedding"]))
    if not spread >= MIN_SPREAD:  # true for NaN too
        raise Collapsed(
            f"the network answers nearly the same to every picture: its answers to black, white, noise and drawings "
            f"differ by {spread:.2g} of their size, and at least {MIN_SPREAD:g} is required. Check that mean and std "
            "are those of its training. Nothing was published."
        )
    return spread


def _spread(answers: np.ndarray) -> float:
    """For `(N, C)`: the median distance of a row to the mean row, divided by the median length of a row."""
    distances = np.linalg.norm(answers - answers.mean(axis=0), axis=1)
    length = float(np.median(np.linalg.norm(answers, axis=1)))
    return float(np.median(distances)) / length if length else 0.0
