"""Classifies in this process: the service's pipeline, without HTTP."""

from __future__ import annotations

import asyncio
import math
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from service.admission import Memory, Permit
from service.answers import Classified
from service.api.parameters import classes_of, top_k_of
from service.backend import Runner
from service.bulk.rows import Answer, Problem
from service.bulk.stream import Ended, Unusable
from service.deadline import Deadline
from service.decoders import Decoders
from service.errors import RequestFault, ServerFault
from service.lifecycle import Lifecycle
from service.local_backend import LocalBackend
from service.metrics import Metrics
from service.model_repository import Model, Repository, RepositoryError, open_repository
from service.pipeline import Pipeline
from service.predictions import needed, predicted
from service.runtime.class_activation import Classifier as Explainer
from service.runtime.class_activation import NoClassifier
from service.runtime.faults import Fault
from service.runtime.graph import Output
from service.runtime.images.decoding import Decoded
from service.runtime.images.resizing import input_box
from service.settings import Settings
from service.settings_sources import SettingsError, read_settings

AT_LEAST = 32  # images in flight

# Here nobody else waits: what is in flight bounds the queue, so that no wait is too long.
UNLIMITED = {"target_wait_ms": 1e12, "workers": 1}


class LocalClassifier:
    """A model that is loaded in this process. A `Classifier`."""

    def __init__(
        self,
        model: Model,
        pipeline: Pipeline,
        fatal: Sequence[Exception],
        memory: Memory,
        top_k: int,
        classes: tuple[int, ...] | None,
        explainer: Explainer | None,
    ) -> None:
        """
        Args:
            explainer: the last layer of the network, if its answers shall be explained.
            fatal: not empty once the engine is broken.
            top_k, classes: as for `predictions.needed`.
        """
        self.model = model.name
        self.version = model.version
        engine = model.status.info  # of a model that is active
        assert engine is not None
        # While one batch runs on each lane, the next ones gather.
        self.at_once = max(AT_LEAST, 2 * engine.lanes * engine.batch_sizes[-1])
        self._card = model.card
        self._pipeline = pipeline
        self._fatal = fatal
        self._memory = memory
        self._explainer = explainer
        self._top_k = top_k
        self._classes = classes
        self._needed = needed(model.card, top_k, classes)

    async def classify(self, image: bytes) -> Answer:
        answer = await self._computed(image)
        if isinstance(answer, Fault):
            return Answer(self.model, self.version, Problem.of(answer).entry())
        entry = self._entry(answer, answer.width, answer.height)
        overlay = await self._overlay(image, answer, entry) if self._explainer else None
        return Answer(self.model, self.version, entry, overlay)

    async def classify_decoded(self, image: Decoded) -> Answer:
        """As `classify`, of an image that was decoded elsewhere. Without an overlay. Raises Ended."""
        answer = await self._computed(image.pixels)
        if isinstance(answer, Fault):
            return Answer(self.model, self.version, Problem.of(answer).entry())
        return Answer(self.model, self.version, self._entry(answer, image.width, image.height))

    async def _computed(self, image: bytes | np.ndarray) -> Classified | Fault:
        """Raises Ended."""
        outputs: tuple[Output, ...] = ("feature_map",) if self._explainer else ()
        with Permit(self._memory) as permit:
            (answer,) = await self._pipeline.classify(permit, [image], self._needed, Deadline.after(math.inf), outputs)
        if self._fatal and isinstance(answer, ServerFault):
            raise Ended(f"{self._fatal[0]}: start again with --resume, or choose another --provider")
        return answer

    def _entry(self, answer: Classified, width: int, height: int) -> dict[str, Any]:
        return {"width": width, "height": height, **predicted(answer.top, self._card, self._top_k, self._classes)}

    async def _overlay(self, image: bytes, answer: Classified, entry: Mapping[str, Any]) -> bytes:
        """The map of the best of the predictions, over the image. Raises Ended."""
        assert self._explainer is not None
        best = [entry["predictions"][0]["class_id"]]
        maps = self._explainer.maps(answer.outputs["feature_map"], best)
        size = answer.width, answer.height
        box = input_box(size, self._card.preprocessing)
        try:
            with Permit(self._memory) as permit:
                (overlay,) = await self._pipeline.draw(permit, image, size, maps, box, Deadline.after(math.inf))
        except Fault as fault:  # of an image that was decoded a moment ago
            raise Ended(f"a picture could not be drawn: {fault} {fault.advice()}") from None
        return overlay


def read(models_dir: Path | None, provider: str | None, precision: str | None) -> Settings:
    """The service's settings, with these in their place. Raises Unusable."""
    given = {"models-dir": models_dir, "provider": provider, "precision": precision}
    try:
        return read_settings([f"--{name}={value}" for name, value in given.items() if value is not None])
    except SettingsError as error:
        raise Unusable(str(error)) from None


class Wanted(NamedTuple):
    """What a run asks for.

    Attributes:
        settings: those that load no other model.
        repository: with the model.
        reference: of the model.
        top_k, classes: as for `predictions.needed`.
    """

    settings: Settings
    repository: Repository
    reference: str
    top_k: int
    classes: tuple[int, ...] | None


def looked_up(
    settings: Settings, model: str | None, depth: int | None, labels: str | None, top_k: int | None
) -> Wanted:
    """Finds a model and checks the options against it, without loading it. Arguments as of `opened`.

    Raises:
        Unusable: there is no such model, or it does not have such classes.
    """
    try:
        reference = model or open_repository(settings).select(None, depth).name
        settings = settings.model_copy(update={"models": (reference,), "default_model": None, **UNLIMITED})
        repository = open_repository(settings)
        found = repository.get(reference)
        values = {} if labels is None else {"labels": labels}
        classes = classes_of(values, found)
        most = top_k_of(values if top_k is None else {**values, "top_k": str(top_k)}, found, classes)
    except RequestFault as fault:
        raise Unusable(f"{fault} {fault.advice()}") from None
    except RepositoryError as error:
        raise Unusable(str(error)) from None
    return Wanted(settings, repository, reference, most, classes)


@asynccontextmanager
async def opened(
    settings: Settings,
    model: str | None,
    depth: int | None,
    labels: str | None,
    top_k: int | None,
    *,
    explains: bool = False,
) -> AsyncIterator[LocalClassifier]:
    """Loads a model, and unloads it at the end.

    Args:
        model: a reference; None for the one of `depth`, else for the default.
        labels: the only classes that come into question, as the parameter of `/classify`.
        top_k: how many classes to answer with.
        explains: answer with overlays, too.

    Raises:
        Unusable: there is no such model, or it cannot be loaded, or does not have such classes.
    """
    settings, repository, reference, most, classes = looked_up(settings, model, depth, labels, top_k)
    metrics = Metrics()
    fatal: list[Exception] = []
    backend = LocalBackend(settings, metrics, on_broken=fatal.append)
    decoders = Decoders(settings.worker_decode_threads, settings.memory.large_images, target=math.inf)

    def activate(model: Model, runner: Runner) -> Pipeline:
        return Pipeline(model, runner, decoders, settings, metrics)

    lifecycle = Lifecycle(repository, backend, activate, lambda pipeline: pipeline.room.vacated(), fatal.append)
    try:
        await lifecycle.load()
        if fatal:
            raise Unusable(str(fatal[0]))
        model_found = repository.get(reference)  # an older version answers if the newest cannot be loaded
        pipeline = lifecycle.active(model_found)
        explainer = pipeline.last_layer if explains else None
        if isinstance(explainer, NoClassifier):
            raise Unusable(f"the answers of {reference} cannot be explained: {explainer}")
        memory = Memory(sys.maxsize, metrics)  # the stream bounds the bytes
        yield LocalClassifier(model_found, pipeline, fatal, memory, most, classes, explainer)
    finally:
        await asyncio.to_thread(decoders.shutdown)
        await backend.close()
