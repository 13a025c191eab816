"""The pipeline: bytes of images in, predictions out. Knows no HTTP.

    bytes ── decode pool ──► pixels ── batcher ──► engine ──► softmax, top-k ──► Answer

Decoding happens on a bounded pool of threads (Pillow releases the GIL), inference on one thread per model. Every image
is admitted before it is decoded and counted until it is answered, so that the images in the service are bounded.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np

from service.batching import Batcher
from service.card import Preprocessing
from service.engine import Engine
from service.errors import (
    ImageProblem,
    ImageTooLarge,
    InternalError,
    ModelFailed,
    ModelNotReady,
    Overloaded,
    Problem,
    retry_after_seconds,
)
from service.imaging import Decoded, decode
from service.metrics import Metrics
from service.repository import Model, Repository
from service.settings import Settings

log = logging.getLogger(__name__)

# What a client of a model that is still loading is told to wait, in seconds: loading takes about that long.
LOADING_RETRY_AFTER = 5


class Query(NamedTuple):
    """One image as the engine takes it."""

    pixels: np.ndarray  # uint8 (3, crop, crop)
    top_k: int


class TopK(NamedTuple):
    """The most probable classes, best first."""

    class_ids: np.ndarray  # int64 (k,)
    probabilities: np.ndarray  # float32 (k,)


class Timings(NamedTuple):
    """Where the time of one image went, in seconds. Read by the metrics and the Server-Timing header alike."""

    decode: float  # on a core of the decode pool
    queue: float  # waiting: for a decode thread, then for the engine
    inference: float  # its whole batch
    total: float
    batch_size: int


class Answer(NamedTuple):
    """One classified image."""

    top: TopK
    width: int  # of the image as decoded, upright
    height: int
    timings: Timings


class _TimedDecode(NamedTuple):
    decoded: Decoded
    started: float
    finished: float


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
    order = np.argsort(-logits, axis=1, kind="stable")[:, :k]
    best = np.take_along_axis(probabilities, order, axis=1)
    return [TopK(ids, values) for ids, values in zip(order, best, strict=True)]


class Pipeline:
    """A ready model with its batcher, and the images that are in it."""

    def __init__(self, model: Model, engine: Engine, settings: Settings, metrics: Metrics) -> None:
        self._engine = engine
        calibration = model.card.calibration
        self._temperature = calibration.temperature if calibration else 1.0
        self._max_queue = settings.max_queue
        self.images = 0  # admitted and not answered yet
        batch_size = metrics.batch_size.labels(model=model.name)
        self.batcher: Batcher[Query, TopK] = Batcher(
            self._run,
            max_batch=settings.max_batch,
            max_wait=settings.max_wait_ms / 1000,
            on_batch=batch_size.observe,
            name=f"engine-{model.name}",
        )

    def _run(self, queries: Sequence[Query]) -> list[TopK]:
        logits = self._engine.infer(np.stack([query.pixels for query in queries]))["logits"]
        best = top_k(logits, max(query.top_k for query in queries), self._temperature)
        return [TopK(ids[: q.top_k], p[: q.top_k]) for q, (ids, p) in zip(queries, best, strict=True)]

    def check_room(self, images: int = 1) -> None:
        """Raises Overloaded when `images` more do not fit."""
        if self.images + images > self._max_queue:
            raise Overloaded(
                queued=self.images,
                max_queue=self._max_queue,
                retry_after=retry_after_seconds(self.images, self.batcher.drain_rate.per_second),
            )

    @contextmanager
    def admit(self, images: int) -> Iterator[None]:
        """Counts images in, and out again when they are answered, failed or abandoned. Raises Overloaded."""
        self.check_room(images)
        self.images += images
        try:
            yield
        finally:
            self.images -= images


class Classifier:
    """Classifies images with the models of a repository."""

    def __init__(self, repository: Repository, settings: Settings, metrics: Metrics) -> None:
        self.repository = repository
        self._settings = settings
        self._metrics = metrics
        self._pipelines: dict[str, Pipeline] = {}
        self._stopping = threading.Event()
        self._decoders = ThreadPoolExecutor(settings.decode_threads, thread_name_prefix="decode")

    def load(self) -> None:
        """Loads every model, one after the other. Blocks; run it on a thread of its own. Bad models end as failed."""
        settings = self._settings
        for model in self.repository.models.values():
            if self._stopping.is_set():
                return
            model.load(settings.provider, threads=settings.engine_threads, max_batch=settings.max_batch)
            if model.engine is not None:
                self._pipelines[model.name] = self._start(model, model.engine)
                model.state = "ready"

    @property
    def loaded(self) -> bool:
        """Whether loading is over: every model is ready or has failed."""
        return all(model.state != "loading" for model in self.repository.models.values())

    @property
    def ready(self) -> bool:
        """Whether loading is over and the default model answers."""
        return self.loaded and self.repository.default in self._pipelines

    def _start(self, model: Model, engine: Engine) -> Pipeline:
        pipeline = Pipeline(model, engine, self._settings, self._metrics)
        info = {
            "model": model.name,
            "version": str(model.card.version),
            "depth": str(model.depth),
            "variant": model.card.architecture.variant,
            "provider": engine.provider,
            "compute": engine.compute,
        }
        self._metrics.watch_model(info, lambda: pipeline.images)
        return pipeline

    def stop_loading(self) -> None:
        """Makes `load` return before the next model."""
        self._stopping.set()

    def close(self) -> None:
        """Finishes what is queued and stops the threads. Blocks."""
        self._decoders.shutdown()
        for pipeline in self._pipelines.values():
            pipeline.batcher.close()

    def pipeline(self, model: Model) -> Pipeline:
        """Raises ModelNotReady or ModelFailed."""
        if model.state == "failed":
            raise ModelFailed(model=model.name)
        if model.name not in self._pipelines:
            raise ModelNotReady(model=model.name, retry_after=LOADING_RETRY_AFTER)
        return self._pipelines[model.name]

    async def classify(self, model: Model, uploads: Sequence[bytes], k: int) -> list[Answer | Problem]:
        """Classifies images, each on its own: what goes wrong with one is a problem in its place, for it alone.

        Raises:
            ModelNotReady, ModelFailed, Overloaded: none of the images was looked at.
        """
        pipeline = self.pipeline(model)
        with pipeline.admit(len(uploads)):
            answers = await asyncio.gather(*(self._one(pipeline, model, upload, k) for upload in uploads))
        for answer in answers:
            self._observe(model.name, answer)
        return answers

    async def _one(self, pipeline: Pipeline, model: Model, upload: bytes, k: int) -> Answer | Problem:
        try:
            return await self._answer(pipeline, model, upload, k)
        except ImageProblem as problem:
            return problem
        except Exception:
            log.exception("an image of %d bytes could not be classified", len(upload))
            return InternalError()

    async def _answer(self, pipeline: Pipeline, model: Model, upload: bytes, k: int) -> Answer:
        """Raises ImageProblem, or whatever an accident raises."""
        arrived = time.perf_counter()
        loop = asyncio.get_running_loop()
        decoded, started, finished = await loop.run_in_executor(
            self._decoders, self._decode, upload, model.card.preprocessing
        )
        best, timing = await pipeline.batcher.submit(Query(decoded.pixels, k))
        return Answer(
            best,
            decoded.width,
            decoded.height,
            Timings(
                decode=finished - started,
                queue=(started - arrived) + timing.queued,
                inference=timing.ran,
                total=time.perf_counter() - arrived,
                batch_size=timing.batch_size,
            ),
        )

    def _decode(self, upload: bytes, preprocessing: Preprocessing) -> _TimedDecode:
        started = time.perf_counter()
        if len(upload) > self._settings.max_image_bytes:
            raise ImageTooLarge(bytes=len(upload), max_bytes=self._settings.max_image_bytes)
        decoded = decode(upload, preprocessing, max_pixels=self._settings.max_pixels)
        return _TimedDecode(decoded, started, time.perf_counter())

    def _observe(self, model: str, answer: Answer | Problem) -> None:
        if isinstance(answer, Problem):
            self._metrics.images.labels(model=model, outcome=answer.slug).inc()
            return
        self._metrics.images.labels(model=model, outcome="ok").inc()
        timings = answer.timings
        for stage in ("decode", "queue", "inference", "total"):
            self._metrics.stages.labels(model=model, stage=stage).observe(getattr(timings, stage))
