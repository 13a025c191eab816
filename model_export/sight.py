"""The gate after parity: that a network tells pictures apart.

Parity proves that ONNX computes what PyTorch does, not that it makes sense.
"""

from __future__ import annotations

import numpy as np

from model_export.parity import ParityFailed, sample_images
from service.card import Preprocessing
from service.engine import Engine

# The least that answers to different pictures differ by, relative to their size. Networks of every family and depth are
# above 0.14, untrained ones included. With a layer of zeros they are at 0; with statistics of 0 to 255, which the card
# refuses before, mostly below 0.02.
SIGHT = 0.02


def check_sight(engine: Engine, preprocessing: Preprocessing) -> float:
    """Whether the network tells pictures apart: black, white, noise and drawings.

    A network that is fed with statistics of another scale, or that has lost a layer, answers nearly the same to all.

    Returns:
        How far its answers differ: the median distance to their mean, relative to their own size; of the logits or of
        the embedding, whichever is less. 0.14 (untrained) to 5 on the networks of the paper.

    Raises:
        ParityFailed: it is less than `SIGHT`.
    """
    shape = (1, 3, preprocessing.crop, preprocessing.crop)
    noise = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    drawings = sample_images(5, preprocessing)
    pictures = np.concatenate([np.zeros(shape, np.uint8), np.full(shape, 255, np.uint8), noise, drawings])
    found = engine.infer(pictures, ("logits", "embedding"))
    logits = found["logits"] - found["logits"].mean(axis=1, keepdims=True)  # a constant on all classes means nothing
    spread = min(_spread(logits), _spread(found["embedding"]))
    if not spread >= SIGHT:  # also when it is not a number
        raise ParityFailed(
            f"the network does not see: its answers to black, white, noise and drawings differ by {spread:.2g} of "
            f"their size, where {SIGHT:g} is the least. Are mean and std those of its training? Nothing was published."
        )
    return spread


def _spread(answers: np.ndarray) -> float:
    """Of `(N, C)`: the median distance of a row to the mean of all, in median lengths of a row."""
    distances = np.linalg.norm(answers - answers.mean(axis=0), axis=1)
    length = float(np.median(np.linalg.norm(answers, axis=1)))
    return float(np.median(distances)) / length if length else 0.0
