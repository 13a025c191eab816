"""The models that the engine process computes for its workers, by their index in shared memory."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from service.backend import Runner
from service.model_repository import Model
from service.runtime.model_card import ModelCard
from service.workers.memory import Layout, SharedMemory

SLOTS = 1024  # images that one worker can have in the engine process; its decode threads wait for a free slot

# What the shared memory has room for besides the models at the start. Pages take memory only once they are written.
MORE_MODELS, LEAST_PIXEL_BYTES, LEAST_CLASSES = 16, 3 * 512**2, 1000
LEAST_OUTPUT_NUMBERS = 1000 + 2048 + 2048 * 7**2  # of a ResNet-50


class Loaded(NamedTuple):
    """A model that the engine process computes."""

    model: Model
    runner: Runner


def layout_for(models: Sequence[Model], workers: int, jpeg_bytes: int = 0) -> Layout:
    """A layout with room for these models and later ones.

    Args:
        jpeg_bytes: of the largest JPEG that is handed over.
    """
    cards = [model.card for model in models]
    return Layout(
        workers=workers,
        models=2 * len(cards) + MORE_MODELS,  # while versions change, both are loaded
        slots=SLOTS,
        pixel_bytes=max(LEAST_PIXEL_BYTES, *(math.prod(card.preprocessing.shape) for card in cards)),
        jpeg_bytes=jpeg_bytes,
        classes=max(LEAST_CLASSES, *(card.architecture.num_classes for card in cards)),
        output_numbers=max(LEAST_OUTPUT_NUMBERS, *map(output_numbers, cards)),
    )


def output_numbers(card: ModelCard) -> int:
    """Of all outputs of the graph together, for one image."""
    return sum(map(math.prod, card.output_shapes.values()))


class ModelTable(dict[int, Loaded]):
    """By index. Used on the event loop; `unfit` from any thread."""

    def __init__(self, memory: SharedMemory) -> None:
        super().__init__()
        self._memory = memory

    def unfit(self, model: Model) -> str | None:
        """Why the shared memory has no room for a model; None if it has."""
        layout, card = self._memory.layout, model.card
        for what, size, most in (
            ("its input has {} bytes", math.prod(card.preprocessing.shape), layout.pixel_bytes),
            ("it has {} classes", card.architecture.num_classes, layout.classes),
            ("its outputs have {} numbers", output_numbers(card), layout.output_numbers),
            ("with it, {} models are loaded", len(self) + 1, layout.models),
        ):
            if size > most:
                return f"{what.format(size)}; the workers' shared memory has room for {most}: restart the service"
        return None

    def add(self, model: Model, runner: Runner) -> int:
        """Returns the model's index."""
        index = next(index for index in range(self._memory.layout.models) if index not in self)
        self[index] = Loaded(model, runner)
        self._memory.per_second[index] = runner.per_second
        return index
