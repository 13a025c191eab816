"""The service's answers."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from service.client.errors import ResnetError
from service.client.images import Image

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

T = TypeVar("T")

DURATION = re.compile(r"([\w-]+);dur=([0-9.]+)")  # of a Server-Timing header (W3C)


@dataclass(frozen=True, slots=True)
class Prediction:
    class_id: int
    label: str
    probability: float


@dataclass(frozen=True, slots=True)
class Computed:
    """What computed an answer.

    Attributes:
        model, depth, version: the model that was asked.
        provider: `cpu`, `cuda` or `openvino`.
        precision: of the arithmetic: `fp32`, `bf16`, `fp16` or `int8`.
        request_id: by which the service's log names the request.
    """

    model: str
    depth: int
    version: int
    provider: str
    precision: str
    request_id: str


@dataclass(frozen=True, slots=True)
class Classification(Computed):
    """The classes of one image.

    Attributes:
        width, height: of the upright image, in pixels.
        predictions: most probable first, `top_k` of them.
        labels: of multi-label models: the classes that are present; None of others.
        label: of models that may reject: the best class; None if rejected, and of other models.
        rejected: of models that may reject: whether even the best class is too improbable; None of others.
        restricted_to: the classes that came into question, if the call named some.
        mass: with `restricted_to`, of softmax: the probability of these classes together before it was made 1.
        milliseconds: what each stage took in the service: `decode`, `queue`, `inference`, `total`.
    """

    width: int
    height: int
    predictions: tuple[Prediction, ...]
    labels: tuple[Prediction, ...] | None
    label: str | None
    rejected: bool | None
    restricted_to: tuple[str, ...] | None
    mass: float | None
    milliseconds: Mapping[str, float]

    @property
    def best(self) -> Prediction:
        """The most probable class."""
        return self.predictions[0]


@dataclass(frozen=True, slots=True, eq=False)
class ClassMap:
    """Why an image has this score for one class. The mean of `map` plus `bias` is `logit`.

    Attributes:
        map: float32 `(height, width)` of the last feature map, over the box of `Explanation`.
    """

    class_id: int
    label: str
    probability: float
    logit: float
    bias: float
    map: NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class Explanation(Computed):
    """Class activation maps of one image.

    Attributes:
        width, height: of the upright image, in pixels.
        box: left, top, right and bottom of what the network saw, in pixels of the upright image. It may reach beyond
            the image.
        classes: most probable first.
    """

    width: int
    height: int
    box: tuple[float, float, float, float]
    classes: tuple[ClassMap, ...]


@dataclass(frozen=True, slots=True)
class Preview:
    """What the network sees of an image.

    Attributes:
        png: a PNG file.
        model: the model and its version: `resnet50@3`.
        decoded: how the file was decoded: a dictionary of structured fields (RFC 9651).
    """

    png: bytes
    model: str
    decoded: str


@dataclass(frozen=True, slots=True)
class Model:
    """A model that the service has.

    Attributes:
        references: what `model=` means it by.
        default: whether it answers calls that name no model.
        classes: how many.
        state: `ready` answers; `loading` and `failed` do not.
        provider, precision: None before it is loaded.
        document: everything that `/models` says of it.
    """

    name: str
    version: int
    depth: int
    references: tuple[str, ...]
    default: bool
    classes: int
    state: str
    provider: str | None
    precision: str | None
    document: Mapping[str, Any]


@dataclass(frozen=True)
class Outcome(Generic[T]):
    """What became of one image of many: `answer` or `error`.

    Attributes:
        number: of the image, from 0, in the order of the iterable.
        image: as the iterable gave it.
        error: an OSError if the image could not be read.
    """

    number: int
    image: Image
    answer: T | None = None
    error: ResnetError | OSError | None = None

    def result(self) -> T:
        """The answer. Raises the error if there is none."""
        if self.error is not None:
            raise self.error
        assert self.answer is not None
        return self.answer


def computed(document: Mapping[str, Any], request_id: str) -> dict[str, Any]:
    """The fields of `Computed`."""
    names = ("model", "depth", "version", "provider", "precision")
    return {**{name: document[name] for name in names}, "request_id": request_id}


def classification(document: Mapping[str, Any], server_timing: str, request_id: str) -> Classification:
    """From the JSON of `/classify` for one image. Raises KeyError, TypeError or ValueError if it is something else."""
    (image,) = document["images"]
    return Classification(
        **computed(document, request_id),
        width=image["width"],
        height=image["height"],
        predictions=_predictions(image["predictions"]),
        labels=_predictions(image["labels"]) if "labels" in image else None,
        label=image.get("label"),
        rejected=image.get("rejected"),
        restricted_to=tuple(document["restricted_to"]) if "restricted_to" in document else None,
        mass=image.get("mass"),
        milliseconds={name: float(number) for name, number in DURATION.findall(server_timing)},
    )


def explanation(document: Mapping[str, Any], request_id: str) -> Explanation:
    """From the JSON of `/explain`. Raises KeyError, TypeError or ValueError if it is something else."""
    import numpy as np  # here: classifying needs no arrays

    image = document["image"]
    left, top, right, bottom = image["box"]
    return Explanation(
        **computed(document, request_id),
        width=image["width"],
        height=image["height"],
        box=(left, top, right, bottom),
        classes=tuple(
            ClassMap(
                class_id=one["class_id"],
                label=one["label"],
                probability=one["probability"],
                logit=one["logit"],
                bias=one["bias"],
                map=np.asarray(one["map"], np.float32),
            )
            for one in document["explanations"]
        ),
    )


def models(document: Mapping[str, Any]) -> tuple[Model, ...]:
    """From the JSON of `/models`. Raises KeyError or TypeError if it is something else."""
    names = ("name", "version", "depth", "default", "classes", "state", "provider", "precision")
    return tuple(
        Model(**{name: one[name] for name in names}, references=tuple(one["references"]), document=one)
        for one in document["models"]
    )


def _predictions(entries: Sequence[Mapping[str, Any]]) -> tuple[Prediction, ...]:
    return tuple(Prediction(one["class_id"], one["label"], one["probability"]) for one in entries)
