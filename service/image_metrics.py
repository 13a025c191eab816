"""Counts the images of one model: how they end, how long they take, and what the model says of them."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from service.metrics import MOST_CLASSES, STAGES, Metrics, Stage
from service.runtime.model_card import ModelCard
from service.runtime.scores import TopK
from service.tracing import traces


class ImageMetrics:
    def __init__(self, card: ModelCard, metrics: Metrics) -> None:
        # Looked up once: a label costs as much as counting.
        self._stages = [(stage, metrics.stages.labels(model=card.name, stage=stage)) for stage in STAGES]
        self._images = metrics.images
        self._name = card.name
        self._ok = metrics.images.labels(model=card.name, outcome="ok")
        self._confidence = metrics.confidence.labels(model=card.name)
        self._head = card.head
        self._thresholds = np.array(self._head.thresholds_of(len(card.labels)))
        self._predicted = {
            class_id: metrics.predicted.labels(card.name, label.name)
            for class_id, label in enumerate(card.labels if len(card.labels) <= MOST_CLASSES else ())
        }
        self._not_decoded = metrics.not_decoded.labels(model=card.name)

    def not_decoded(self) -> None:
        """Counts a JPEG that the engine could not decode."""
        self._not_decoded.inc()

    def failed(self, outcome: str, images: int = 1) -> None:
        """Counts images without an answer.

        Args:
            outcome: the slug of the fault, or `withdrawn`.
        """
        self._images.labels(self._name, outcome).inc(images)

    def answered(self, top: TopK, seconds: Mapping[Stage, float]) -> None:
        """Counts an image of the current request."""
        exemplar = traces.exemplar()
        self._ok.inc()
        self._confidence.observe(float(top.probabilities[0]), exemplar)
        for class_id in self._classes(top) if self._predicted else ():
            self._predicted[class_id].inc()
        for stage, histogram in self._stages:
            histogram.observe(seconds[stage], exemplar)

    def _classes(self, top: TopK) -> list[int]:
        """The classes that the model answers with, whatever part of its answer the request asks for."""
        if self._head.multi_label:
            present = top.probabilities >= self._thresholds[top.class_ids]
            return [int(class_id) for class_id in top.class_ids[present]]
        if self._head.rejection and top.probabilities[0] < self._head.rejection.threshold:
            return []
        return [int(top.class_ids[0])]
