"""One image as the service sees and answers it. Needs neither PyTorch nor a running service."""

from __future__ import annotations

import time
from pathlib import Path
from typing import NamedTuple

import numpy as np

from service.runtime.engine import Engine, EngineInfo
from service.runtime.images.decoding import Decoded, decode
from service.runtime.images.preview import DecodePath, decode_path
from service.runtime.model_card import ModelCard
from service.runtime.preprocessing import Preprocessing
from service.runtime.scores import TopK, top_k


class Seen(NamedTuple):
    """The network's input.

    Attributes:
        seconds: that decoding took.
    """

    decoded: Decoded
    path: DecodePath
    seconds: float


class Answer(NamedTuple):
    """What one engine makes of it.

    Attributes:
        classes: all of them, the most probable first.
        embedding_norm: the length (L2) of the vector before the last layer.
        seconds: that inference took, alone.
    """

    info: EngineInfo
    classes: TopK
    embedding_norm: float
    seconds: float

    @property
    def probabilities(self) -> np.ndarray:
        """float32 (classes,), by class id."""
        by_id = np.empty_like(self.classes.probabilities)
        by_id[self.classes.class_ids] = self.classes.probabilities
        return by_id


class Difference(NamedTuple):
    """How far two answers are apart.

    Attributes:
        largest: of a probability.
        class_id: that has it.
        same_class: whether the same class is the most probable.
    """

    largest: float
    class_id: int
    same_class: bool


class Preview(NamedTuple):
    """One image, one model, and one or two answers.

    Attributes:
        file: the image, of `size` bytes.
        crop: the file that shows it as the network sees it.
        difference: between the two answers; None if there is one.
    """

    file: Path
    size: int
    crop: Path
    card: ModelCard
    seen: Seen
    answers: tuple[Answer, ...]
    difference: Difference | None


def see(data: bytes, preprocessing: Preprocessing, *, max_pixels: int, scaled: bool) -> Seen:
    """Decodes a file as the service does. Raises ImageFault as `decode` does."""
    started = time.perf_counter()
    decoded = decode(data, preprocessing, max_pixels=max_pixels, scaled=scaled)
    seconds = time.perf_counter() - started
    return Seen(decoded, decode_path(data, preprocessing, max_pixels=max_pixels, scaled=scaled), seconds)


def answer(engine: Engine, card: ModelCard, pixels: np.ndarray) -> Answer:
    """
    Args:
        pixels: uint8 (channels, height, width).
    """
    started = time.perf_counter()
    outputs = engine.infer(pixels[None], ("logits", "embedding"))
    seconds = time.perf_counter() - started
    (classes,) = top_k(outputs["logits"], len(card.labels), card.temperature, card.head.kind)
    return Answer(engine.info, classes, float(np.linalg.norm(outputs["embedding"][0])), seconds)


def compare(one: Answer, other: Answer) -> Difference:
    """How far two answers to the same pixels are apart."""
    differences = np.abs(one.probabilities - other.probabilities)
    class_id = int(differences.argmax())
    same_class = bool(one.classes.class_ids[0] == other.classes.class_ids[0])
    return Difference(float(differences[class_id]), class_id, same_class)
