"""From pixels to predictions: a loaded model behind a queue, `Inference`, and the place where models are computed.

There are two such places, which the rest of the service cannot tell apart: this process (`InProcess`), or one process
that all workers share (`service.workers`).
"""

from __future__ import annotations

import asyncio
import ctypes
import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import NamedTuple, Protocol

import numpy as np

from service.batching import Batcher, ExactSizes, PaddedSizes, Timing
from service.metrics import Metrics
from service.repository import Model, Repository
from service.settings import Settings
from service.tuning import Cache

log = logging.getLogger(__name__)


class TopK(NamedTuple):
    """The most probable classes, best first."""

    class_ids: np.ndarray  # integers (k,)
    probabilities: np.ndarray  # float32 (k,)


# What comes back for an image: its classes, and where the time went.
Prediction = asyncio.Future[tuple[TopK, Timing]]


# Batches in a row that the engine may fail before its process gives up. After some CUDA errors no batch ever succeeds,
# and only a new process helps.
FAILURES = 3


class EngineBroken(Exception):
    """The engine has failed several batches in a row; the message says why."""


class NotFinite(Exception):
    """A logit is infinite or not a number: float16 has overflowed, or the hardware is faulty."""


class Item(Protocol):
    """What a batch is made of."""

    @property
    def pixels(self) -> np.ndarray:
        """uint8 `(3, crop, crop)`, RGB."""

    @property
    def top_k(self) -> int:
        """How many classes to answer with."""


class Executor(Protocol):
    """A ready model, wherever it is computed."""

    @property
    def in_service(self) -> int:
        """Images that were counted in and not out again."""

    @property
    def per_second(self) -> float:
        """Images per second that leave while there is work; 0 until the first have."""

    def count(self, images: int) -> None:
        """Counts images in, or out if negative. On the event loop."""

    def submit(self, item: Item, prediction: Prediction) -> None:
        """Queues an image; may be called from any thread. What goes wrong is the exception of `prediction`."""

    def withdraw(self, prediction: Prediction) -> None:
        """Nobody waits for this any more. On the event loop; the future is cancelled."""

    def close(self) -> None:
        """Finishes what is queued. Blocks."""


class Backend(Protocol):
    """Where the models of a repository are computed."""

    @property
    def repository(self) -> Repository:
        """The models, with their states."""

    def load(self) -> Iterator[tuple[Model, Executor | None]]:
        """Every model, as soon as it is ready or has failed (then without an executor). Blocks in between."""

    def stop_loading(self) -> None:
        """Makes `load` end before the next model. From any thread."""

    async def catch_up(self) -> None:
        """Returns when `load`, on its thread, has been through all models that were ready before it began."""

    @property
    def ready(self) -> bool:
        """Whether all processes that share a port with this one have been through all models."""


def softmax(logits: np.ndarray, temperature: float = 1.0) -> np.ndarray:
    """Probabilities `(N, classes)` of logits `(N, classes)`; those of a calibrated model have its temperature."""
    exponentials: np.ndarray = np.exp((logits - logits.max(axis=1, keepdims=True)) / temperature)
    exponentials /= exponentials.sum(axis=1, keepdims=True)
    return exponentials


def top_k(logits: np.ndarray, k: int, temperature: float = 1.0) -> list[TopK]:
    """The `k` best classes of each row of logits `(N, classes)`; equal ones in the order of their ids.

    Temperature changes the probabilities, never the order: that is the logits'.
    """
    probabilities = softmax(logits, temperature)
    found = []
    # Sorting all classes would take ten times as long as finding the few that are at least as good as the k-th.
    for row, values, least in zip(logits, probabilities, np.partition(logits, -k, axis=1)[:, -k], strict=True):
        ids = np.flatnonzero(row >= least)
        best = ids[np.argsort(-row[ids], kind="stable")][:k]
        found.append(TopK(best, values[best]))
    return found


def return_freed_memory() -> None:
    """Gives the system back what loading has freed, which glibc would keep: 100 MB and more of a ResNet-50."""
    with suppress(OSError, AttributeError):  # another C library has no need of it
        ctypes.CDLL("libc.so.6").malloc_trim(0)


class Inference:
    """A loaded model in this process: batches, the engine, softmax and top-k. An `Executor`."""

    def __init__(
        self,
        model: Model,
        settings: Settings,
        metrics: Metrics,
        on_broken: Callable[[EngineBroken], None] = lambda error: None,
    ) -> None:
        """
        Args:
            on_broken: told on a thread, once, when `FAILURES` batches in a row have failed.
        """
        assert model.engine is not None
        self._name = model.name
        self._engine = model.engine
        self._on_broken = on_broken
        self._failures = 0  # in a row, of all lanes
        self._given_up = False
        self._counting = threading.Lock()
        calibration = model.card.calibration
        self._temperature = calibration.temperature if calibration else 1.0
        self.in_service = 0
        self._batcher: Batcher[Item, TopK] = Batcher(
            self._run,
            sizes=PaddedSizes(seconds) if (seconds := self._engine.seconds) else ExactSizes(self._engine.batch_sizes),
            lanes=self._engine.lanes,
            prepare=self._engine.warm_up_thread,
            max_wait=settings.max_wait_ms / 1000,
            on_batch=metrics.batch_size.labels(model=model.name).observe,
            name=f"engine-{self._name}",
        )

    def _run(self, items: Sequence[Item], alone: bool) -> list[TopK | Exception]:
        logits = self._logits(items, alone)
        finite = np.isfinite(logits).all(axis=1)
        if not finite.all():
            log.error("%s: %d of %d images gave logits that are no numbers", self._name, (~finite).sum(), len(items))
        best = iter(top_k(logits[finite], max(item.top_k for item in items), self._temperature))
        results: list[TopK | Exception] = []
        for item, fine in zip(items, finite, strict=True):
            if fine:
                ids, probabilities = next(best)
                results.append(TopK(ids[: item.top_k], probabilities[: item.top_k]))
            else:
                results.append(NotFinite("the network's answer to this image is not a number"))
        return results

    def _logits(self, items: Sequence[Item], alone: bool) -> np.ndarray:
        """float32 `(N, classes)`. Raises what the engine raises, and counts it."""
        try:
            logits = self._engine.infer([item.pixels for item in items], alone=alone)["logits"]
        except Exception as error:
            with self._counting:
                self._failures += 1
                broken = self._failures >= FAILURES and not self._given_up
                self._given_up |= broken
            if broken:
                self._on_broken(EngineBroken(f"{self._name}: {FAILURES} batches in a row have failed: {error}"))
            raise
        with self._counting:
            self._failures = 0
        return logits

    @property
    def per_second(self) -> float:
        return self._batcher.drain_rate.per_second

    def count(self, images: int) -> None:
        self.in_service += images

    def submit(self, item: Item, prediction: Prediction) -> None:
        """Raises Closed after `close`."""
        self._batcher.submit(item, prediction)

    def withdraw(self, prediction: Prediction) -> None:
        """Nothing to do: the batcher looks for itself before it computes."""

    def close(self) -> None:
        self._batcher.close()


class InProcess:
    """Loads the models of a repository one after the other, and computes them here. A `Backend`."""

    def __init__(
        self,
        repository: Repository,
        settings: Settings,
        metrics: Metrics,
        on_broken: Callable[[EngineBroken], None] = lambda error: None,
    ) -> None:
        """
        Args:
            on_broken: told on a thread, once for each model, when its engine fails batch after batch. From then on
                nothing is ready.
        """
        self.repository = repository
        self._on_broken = on_broken
        self._broken = False
        self._settings = settings
        self._metrics = metrics
        self._stopping = threading.Event()

    def load(self) -> Iterator[tuple[Model, Inference | None]]:
        settings = self._settings
        for model in self.repository.models.values():
            if self._stopping.is_set():
                return
            model.load(
                settings.provider,
                settings.precision,
                threads=settings.engine_threads,
                max_batch=settings.max_batch,
                cache=Cache(settings.cache_dir),
                gpu=settings.gpu,
            )
            return_freed_memory()
            if model.info is None:
                yield model, None
                continue
            try:
                inference = Inference(model, settings, self._metrics, self._break)
            except Exception as error:  # a lane that does not warm up: no memory left on the GPU, say
                model.fail(f"its engine does not run on the threads of its lanes: {error}")
                yield model, None
                continue
            self._metrics.model_is_ready(
                model=model.name,
                version=str(model.card.version),
                depth=str(model.depth),
                variant=model.card.architecture.variant,
                provider=model.info.provider,
                compute=model.info.compute,
            )
            yield model, inference

    def _break(self, error: EngineBroken) -> None:
        log.error("%s", error)
        self._broken = True
        self._on_broken(error)

    def stop_loading(self) -> None:
        self._stopping.set()

    async def catch_up(self) -> None:
        """None was ready before."""

    @property
    def ready(self) -> bool:
        """Whether no engine is broken; there are no other processes."""
        return not self._broken
