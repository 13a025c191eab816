"""The pipeline: bytes of images in, predictions out. Knows no HTTP.

    bytes ── decode pool ──► pixels ── batcher ──► engine ──► softmax, top-k ──► Answer

Decoding happens on a bounded pool of threads (Pillow releases the GIL), inference on one thread for each lane of a
model's engine. Both pools have as many threads as there are cores: neither spins, and no computation waits for another,
so the system shares the cores out. Every image is admitted before it is decoded and counted until it is answered, so
that the images in the service are bounded.
"""

from __future__ import annotations

import asyncio
import ctypes
import functools
import logging
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import NamedTuple, get_args

import numpy as np

from service.batching import Batcher, Timing
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
from service.metrics import Metrics, Stage
from service.repository import Model, Repository
from service.settings import Settings
from service.tuning import Cache

log = logging.getLogger(__name__)

# What a client of a model that is still loading is told to wait, in seconds: loading takes about that long.
LOADING_RETRY_AFTER = 5


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


@dataclass(slots=True)
class _Image:
    """One image on its way: made on the event loop, decoded on the pool, then an item of a batch."""

    upload: bytes
    top_k: int
    answer: asyncio.Future[tuple[TopK, Timing]]
    arrived: float = field(default_factory=time.perf_counter)
    started: float = 0.0  # decoding
    finished: float = 0.0
    decoded: Decoded | None = None

    @property
    def pixels(self) -> np.ndarray:
        assert self.decoded is not None  # it is an item of a batch
        return self.decoded.pixels


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


class Pipeline:
    """A ready model with its batcher, and the images that are in it."""

    def __init__(self, model: Model, engine: Engine, settings: Settings, metrics: Metrics) -> None:
        self._engine = engine
        calibration = model.card.calibration
        self._temperature = calibration.temperature if calibration else 1.0
        self._max_queue = settings.max_queue
        self.preprocessing = model.card.preprocessing
        self.images = 0  # admitted and not answered yet
        batch_size = metrics.batch_size.labels(model=model.name)
        # Looked up once: a label costs as much as counting.
        self._stages = [(stage, metrics.stages.labels(model=model.name, stage=stage)) for stage in get_args(Stage)]
        self._ok = metrics.images.labels(model=model.name, outcome="ok")
        self._failed = functools.partial(metrics.images.labels, model.name)
        self.batcher: Batcher[_Image, TopK] = Batcher(
            self._run,
            sizes=engine.batch_sizes,
            lanes=engine.lanes,
            max_wait=settings.max_wait_ms / 1000,
            on_batch=batch_size.observe,
            name=f"engine-{model.name}",
        )

    def _run(self, images: Sequence[_Image], alone: bool) -> list[TopK]:
        logits = self._engine.infer(np.stack([image.pixels for image in images]), alone=alone)["logits"]
        best = top_k(logits, max(image.top_k for image in images), self._temperature)
        return [TopK(ids[: image.top_k], p[: image.top_k]) for image, (ids, p) in zip(images, best, strict=True)]

    def check_room(self, images: int = 1) -> None:
        """Raises Overloaded when `images` more do not fit."""
        if self.images + images > self._max_queue:
            raise Overloaded(
                queued=self.images,
                max_queue=self._max_queue,
                retry_after=retry_after_seconds(self.images, self.batcher.drain_rate.per_second),
            )

    def observe(self, answer: Answer | Problem) -> None:
        """Counts an image that has been answered."""
        if isinstance(answer, Problem):
            self._failed(answer.slug).inc()
            return
        self._ok.inc()
        for stage, histogram in self._stages:
            histogram.observe(getattr(answer.timings, stage))

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
            model.load(
                settings.provider,
                settings.precision,
                threads=settings.engine_threads,
                max_batch=settings.max_batch or Cache(settings.cache_dir),
            )
            if model.engine is not None:
                self._pipelines[model.name] = self._start(model, model.engine)
                model.state = "ready"
            return_freed_memory()

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
        loop = asyncio.get_running_loop()
        with pipeline.admit(len(uploads)):
            images = [_Image(upload, k, loop.create_future()) for upload in uploads]
            try:
                for image in images:
                    self._decoders.submit(self._decode, image, pipeline)
                answers = [await self._answer(image) for image in images]
            finally:
                for image in images:  # those that nobody waits for any more
                    image.answer.cancel()
        for answer in answers:
            pipeline.observe(answer)
        return answers

    def _decode(self, image: _Image, pipeline: Pipeline) -> None:
        """On the pool: decodes an image and hands it on to the batcher, or its fault to whoever waits."""
        if image.answer.cancelled():
            return
        settings = self._settings
        image.started = time.perf_counter()
        try:
            if len(image.upload) > settings.max_image_bytes:
                raise ImageTooLarge(bytes=len(image.upload), max_bytes=settings.max_image_bytes)
            image.decoded = decode(
                image.upload,
                pipeline.preprocessing,
                max_pixels=settings.max_pixels,
                scaled=settings.scaled_decoding,
            )
            image.finished = time.perf_counter()
            pipeline.batcher.submit(image, image.answer)
        except BaseException as error:  # a pool would keep it to itself
            with suppress(RuntimeError):  # the loop has been closed, and whoever waited has gone with it
                image.answer.get_loop().call_soon_threadsafe(_fail, image.answer, error)

    async def _answer(self, image: _Image) -> Answer | Problem:
        try:
            top, timing = await image.answer
        except ImageProblem as problem:
            return problem
        except Exception:
            log.exception("an image of %d bytes could not be classified", len(image.upload))
            return InternalError()
        assert image.decoded is not None
        return Answer(
            top,
            image.decoded.width,
            image.decoded.height,
            Timings(
                decode=image.finished - image.started,
                queue=(image.started - image.arrived) + timing.queued,
                inference=timing.ran,
                total=time.perf_counter() - image.arrived,
                batch_size=timing.batch_size,
            ),
        )


def _fail(future: asyncio.Future[tuple[TopK, Timing]], error: BaseException) -> None:
    if not future.done():
        future.set_exception(error)
