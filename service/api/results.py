"""What a request wants to know of its images, and the entry of the answer for each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from service.answers import Classified
from service.api import problems
from service.api.parameters import classes_of, top_k_of
from service.api.uploads import Upload
from service.metrics import STAGES
from service.model_repository import Model
from service.runtime.faults import Fault
from service.runtime.model_card import ModelCard
from service.runtime.scores import TopK

MODEL_HEADER = "X-Model"


def reference(model: Model) -> str:
    """The version by name and number."""
    return f"{model.name}@{model.version}"


def answered_by(model: Model) -> dict[str, object]:
    """How an answer begins: which version gave it, and how it was computed."""
    engine = model.status.info  # of a model that is active
    assert engine is not None
    return {
        "model": model.name,
        "depth": model.depth,
        "version": model.card.version,
        "provider": engine.provider,
        "precision": engine.precision,
    }


def server_timing(answers: Sequence[Classified | Fault]) -> dict[str, str]:
    """The header Server-Timing (W3C), in milliseconds; of several images, the longest of each stage."""
    classified = [answer for answer in answers if isinstance(answer, Classified)]
    if not classified:
        return {}
    slowest = {stage: max(answer.seconds[stage] for answer in classified) for stage in STAGES}
    *stages, total = (f"{stage};dur={1000 * seconds:.2f}" for stage, seconds in slowest.items())
    largest = max(answer.batch_size for answer in classified)
    return {"Server-Timing": ", ".join([*stages, f'batch;desc="{largest}"', total])}


def given(upload: Upload) -> dict[str, object]:
    """The name of an image, if it came with one."""
    return {} if upload.name is None else {"file": upload.name}


class Wanted(NamedTuple):
    """What a request asks a model.

    Attributes:
        top_k: how many classes to answer with.
        classes: the ids of the only classes that come into question, ascending; None for all.
    """

    card: ModelCard
    top_k: int
    classes: tuple[int, ...] | None = None

    @classmethod
    def by(cls, values: Mapping[str, str], model: Model) -> Wanted:
        """By the parameters of a request. Raises InvalidParameter."""
        classes = classes_of(values, model)
        return cls(model.card, top_k_of(values, model, classes), classes)

    @property
    def computed(self) -> int:
        """How many classes the pipeline has to find: all, where others than the best have a say in the answer."""
        all_needed = self.card.head.multi_label or self.classes is not None
        return self.card.architecture.num_classes if all_needed else self.top_k

    @property
    def restriction(self) -> dict[str, object]:
        """Says at the top of the answer which classes came into question, if not all of them."""
        if self.classes is None:
            return {}
        return {"restricted_to": [self.card.labels[class_id].name for class_id in self.classes]}


def entry(upload: Upload, answer: Classified | Fault, wanted: Wanted, root_path: str) -> dict[str, object]:
    """One entry of the answer: a `schema.ImageResult`."""
    named = given(upload)
    if isinstance(answer, Fault):
        return named | {"error": problems.document(answer, root_path)}
    return named | {"width": answer.width, "height": answer.height, **_predicted(answer.top, wanted)}


def _predicted(top: TopK, wanted: Wanted) -> dict[str, object]:
    """The classes of one image, as the model's head and the request say."""
    head, labels = wanted.card.head, wanted.card.labels
    found: dict[str, object] = {}
    ids, probabilities = top.class_ids.tolist(), top.probabilities.tolist()
    if wanted.classes is not None:
        chosen = np.isin(top.class_ids, wanted.classes)
        ids, probabilities = top.class_ids[chosen].tolist(), top.probabilities[chosen].tolist()
    if head.rejection:
        # Before the probabilities are renormalised below: for such ones the threshold was fitted.
        found["rejected"] = probabilities[0] < head.rejection.threshold
        found["label"] = None if found["rejected"] else labels[ids[0]].name
    if wanted.classes is not None and not head.multi_label:
        mass = sum(probabilities)
        found["mass"] = round(mass, 6)
        probabilities = [probability / mass if mass else 0.0 for probability in probabilities]
    predictions = [
        {"class_id": class_id, "label": labels[class_id].name, "probability": round(probability, 6)}
        for class_id, probability in zip(ids, probabilities, strict=True)
    ]
    found["predictions"] = predictions[: wanted.top_k]
    if head.multi_label:
        thresholds = head.thresholds_of(len(labels))
        found["labels"] = [
            prediction
            for prediction, class_id, probability in zip(predictions, ids, probabilities, strict=True)
            if probability >= thresholds[class_id]
        ]
    return found
