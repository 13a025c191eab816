"""From what a request asks for to what the pipeline computes, and from its answers to tensors."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from service.open_inference.datatypes import BYTES
from service.open_inference.errors import Code, ProtocolError, invalid
from service.open_inference.images import SHARED_MEMORY
from service.open_inference.messages import OutputTensor, RequestedOutput
from service.runtime.graph import OUTPUTS, Output
from service.runtime.model_card import ModelCard
from service.runtime.scores import probabilities_of, top_k

PROBABILITIES = "probabilities"
# Each output, and the output of the graph that it is made of.
SOURCES: dict[str, Output] = {
    "logits": "logits",
    PROBABILITIES: "logits",
    "embedding": "embedding",
    "feature_map": "feature_map",
}
OF_CLASSES = ("logits", PROBABILITIES)
CLASSIFICATION = "classification"


def shapes_of(card: ModelCard) -> dict[str, tuple[int, ...]]:
    """The shapes of the outputs of one image."""
    shapes = card.output_shapes
    return {name: shapes[source] for name, source in SOURCES.items()}


class Wanted(NamedTuple):
    """One output of an answer.

    Attributes:
        classes: as how many of its best classes it is written (Triton's classification extension); None: as it is.
    """

    name: str
    classes: int | None = None


def wanted_of(outputs: Sequence[RequestedOutput], card: ModelCard) -> list[Wanted]:
    """What a request asks for; everything if it names nothing. Raises ProtocolError."""
    if not outputs:
        return [Wanted(name) for name in SOURCES]
    names = [output.name for output in outputs]
    for output in outputs:
        if output.name not in SOURCES:
            raise invalid(f"the model has no output '{output.name}': choose from {', '.join(SOURCES)}")
        if names.count(output.name) > 1:
            raise invalid(f"output '{output.name}' is asked for twice")
        if SHARED_MEMORY in output.parameters:
            raise ProtocolError(Code.UNSUPPORTED, "shared memory is not supported: take the output from the answer")
    return [Wanted(output.name, _classes(output, card)) for output in outputs]


def _classes(output: RequestedOutput, card: ModelCard) -> int | None:
    asked = output.parameters.get(CLASSIFICATION, 0)
    if isinstance(asked, bool) or not isinstance(asked, int) or asked < 0:
        raise invalid(f"{CLASSIFICATION} of output '{output.name}' is {asked!r}: give a whole number of classes")
    if not asked:
        return None
    if output.name not in OF_CLASSES:
        raise invalid(f"output '{output.name}' has no classes: {CLASSIFICATION} is for {' and '.join(OF_CLASSES)}")
    return min(asked, card.architecture.num_classes)


def computed_for(wanted: Sequence[Wanted]) -> tuple[Output, ...]:
    """The outputs of the graph that it takes."""
    names = {SOURCES[one.name] for one in wanted}
    return tuple(name for name in OUTPUTS if name in names)


def bytes_of(wanted: Sequence[Wanted], card: ModelCard) -> int:
    """What the tensors of one image take, beside what the pipeline answers: as they are, and on the wire."""
    shapes = shapes_of(card)
    return 2 * sum(4 * math.prod(shapes[one.name]) for one in wanted)


def tensors(
    wanted: Sequence[Wanted], computed: Sequence[Mapping[Output, np.ndarray]], card: ModelCard
) -> list[OutputTensor]:
    """The tensors of an answer.

    Args:
        computed: of each image, the outputs of `computed_for`: float32 without a batch.
    """
    stacked: dict[str, np.ndarray] = {name: np.stack([one[name] for one in computed]) for name in computed_for(wanted)}
    if any(one.name == PROBABILITIES for one in wanted):
        stacked[PROBABILITIES] = probabilities_of(stacked["logits"], card.head.kind, card.temperature)
    return [
        OutputTensor.of_floats(one.name, stacked[one.name])
        if one.classes is None
        else _classified(one.name, one.classes, stacked[one.name], stacked["logits"], card)
        for one in wanted
    ]


def _classified(name: str, classes: int, values: np.ndarray, logits: np.ndarray, card: ModelCard) -> OutputTensor:
    """`value:index:label` of the best classes, best first: BYTES `[N, classes]`."""
    best = [top.class_ids.tolist() for top in top_k(logits, classes, card.temperature, card.head.kind)]
    said = [
        f"{row[index]:f}:{index}:{card.labels[index].name}".encode()
        for row, indices in zip(values.tolist(), best, strict=True)
        for index in indices
    ]
    return OutputTensor(name, BYTES, (len(best), classes), said)
