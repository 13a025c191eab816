"""The answer to one image: its classes, as the model's head and the caller's wishes say. Knows no HTTP."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from service.runtime.model_card import ModelCard
from service.runtime.scores import TopK

DEFAULT_TOP_K = 5
DECIMALS = 6  # of numbers in answers


def needed(card: ModelCard, top_k: int, classes: Sequence[int] | None) -> int:
    """How many classes the pipeline has to find: all, where others than the best have a say in the answer.

    Args:
        top_k: how many classes to answer with.
        classes: the ids of the only classes that come into question; None for all.
    """
    return card.architecture.num_classes if card.head.multi_label or classes is not None else top_k


def predicted(top: TopK, card: ModelCard, top_k: int, classes: Sequence[int] | None = None) -> dict[str, Any]:
    """What an answer says of the classes: `predictions`, and what the head adds (`label`, `rejected`, `labels`).

    Args:
        top: as many classes as `needed` says.
        top_k, classes: as for `needed`. Probabilities of softmax then add up to 1 over `classes`; `mass` is their sum
            before.
    """
    head, labels = card.head, card.labels
    found: dict[str, Any] = {}
    ids, probabilities = top.class_ids.tolist(), top.probabilities.tolist()
    if classes is not None:
        chosen = np.isin(top.class_ids, classes)
        ids, probabilities = top.class_ids[chosen].tolist(), top.probabilities[chosen].tolist()
    if head.rejection:
        # Before the renormalisation below: the threshold was fitted to probabilities over all classes.
        found["rejected"] = probabilities[0] < head.rejection.threshold
        found["label"] = None if found["rejected"] else labels[ids[0]].name
    if classes is not None and not head.multi_label:
        mass = sum(probabilities)
        found["mass"] = round(mass, DECIMALS)
        probabilities = [probability / mass if mass else 0.0 for probability in probabilities]
    predictions = [
        {"class_id": class_id, "label": labels[class_id].name, "probability": round(probability, DECIMALS)}
        for class_id, probability in zip(ids, probabilities, strict=True)
    ]
    found["predictions"] = predictions[:top_k]
    if head.multi_label:
        thresholds = head.thresholds_of(len(labels))
        found["labels"] = [
            prediction
            for prediction, class_id, probability in zip(predictions, ids, probabilities, strict=True)
            if probability >= thresholds[class_id]
        ]
    return found
