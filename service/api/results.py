"""What a request wants to know of its images, and the entry of the answer for each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from service.answers import Classified
from service.api import problems
from service.api.parameters import classes_of, top_k_of
from service.api.uploads import Upload
from service.metrics import STAGES
from service.model_repository import Model
from service.predictions import DECIMALS, needed, predicted
from service.runtime.faults import Fault
from service.runtime.model_card import ModelCard
from service.runtime.scores import TopK

MODEL_HEADER = "X-Model"


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
    *stages, total = (f"{stage};dur={1000 * max(each.seconds[stage] for each in classified):.2f}" for stage in STAGES)
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
        narrowed: whether the request says how many classes, or which.
    """

    card: ModelCard
    top_k: int
    classes: tuple[int, ...] | None = None
    narrowed: bool = False

    @classmethod
    def by(cls, values: Mapping[str, str], model: Model) -> Wanted:
        """By the parameters of a request. Raises InvalidParameter."""
        classes = classes_of(values, model)
        narrowed = "top_k" in values or classes is not None
        return cls(model.card, top_k_of(values, model, classes), classes, narrowed)

    @classmethod
    def by_or_all(cls, values: Mapping[str, str], model: Model) -> Wanted:
        """As `by`, but all classes if the request says neither how many nor which."""
        wanted = cls.by(values, model)
        return wanted if wanted.narrowed else wanted._replace(top_k=model.card.architecture.num_classes)

    @property
    def computed(self) -> int:
        """How many classes the pipeline has to find: all, where others than the best have a say in the answer."""
        return needed(self.card, self.top_k, self.classes)

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
    return named | answered(answer, wanted)


def answered(answer: Classified, wanted: Wanted) -> dict[str, object]:
    """The entry of an answered image, without its name."""
    return {"width": answer.width, "height": answer.height, **_predicted(answer, wanted)}


def _predicted(answer: Classified, wanted: Wanted) -> dict[str, Any]:
    return predicted(answer.top, wanted.card, wanted.top_k, wanted.classes)


def by_label(answer: Classified, wanted: Wanted) -> dict[str, float]:
    """The probabilities of the wanted classes by label, most probable first.

    Of classes with the same label, each less probable one has its class id behind it: `crane (517)`.
    """
    found: dict[str, float] = {}
    for prediction in _predicted(answer, wanted)["predictions"]:
        label = prediction["label"]
        found[f"{label} ({prediction['class_id']})" if label in found else label] = prediction["probability"]
    return found


def by_class(top: TopK) -> list[float]:
    """The probabilities of all classes, by class id. `top` holds all of them."""
    probabilities = np.empty(len(top.class_ids))
    probabilities[top.class_ids] = top.probabilities
    return probabilities.round(DECIMALS).tolist()
