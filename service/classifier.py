"""The pipeline: bytes of images in, predictions out. Knows no HTTP.

    bytes ── decode pool ──► pixels ── executor (batches, engine, softmax, top-k) ──► Answer

Decoding happens on a bounded pool of threads (Pillow releases the GIL), inference on one thread for each lane of a
model's engine. Both pools have as many threads as there are cores: neither spins, and no computation waits for another,
so the system shares the cores out. Every image is admitted before it is decoded and counted until it is answered, so
that the images in the service are bounded.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import NamedTuple, get_args

import numpy as np

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
from service.inference import Backend, Executor, Prediction, TopK
from service.metrics import Metrics, Stage
from service.repository import Model
from service.settings import Settings

log = logging.getLogger(__name__)

# What a client of a model that is still loading is told to wait, in seconds: loading takes about that long.
LOADING_RETRY_AFTER = 5


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
    answer: Prediction
    arrived: float = field(default_factory=time.perf_counter)
    started: float = 0.0  # decoding
    finished: float = 0.0
    decoded: Decoded | None = None

    @property
    def pixels(self) -> np.ndarray:
        assert self.decoded is not None  # it is an item of a batch
        return self.decoded.pixels


class Pipeline:
    """A ready model, and the images that are on their way through it."""

    def __init__(self, model: Model, executor: Executor, settings: Settings, metrics: Metrics) -> None:
        self.executor = executor
        self._max_queue = settings.max_queue
        self.preprocessing = model.card.preprocessing
        # Looked up once: a label costs as much as counting.
        self._queue = metrics.queue.labels(model=model.name)
        self._stages = [(stage, metrics.stages.labels(model=model.name, stage=stage)) for stage in get_args(Stage)]
        self._ok = metrics.images.labels(model=model.name, outcome="ok")
        self._failed = functools.partial(metrics.images.labels, model.name)

    def check_room(self, images: int = 1) -> None:
        """Raises Overloaded when `images` more do not fit."""
        queued = self.executor.in_service
        if queued + images > self._max_queue:
            raise Overloaded(
                queued=queued,
                max_queue=self._max_queue,
                retry_after=retry_after_seconds(queued, self.executor.per_second),
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
        self.executor.count(images)
        self._queue.inc(images)
        try:
            yield
        finally:
            self.executor.count(-images)
            self._queue.dec(images)


class Classifier:
    """Classifies images with the models of a backend."""

    def __init__(self, backend: Backend, settings: Settings, metrics: Metrics) -> None:
        self.repository = backend.repository
        self._backend = backend
        self._settings = settings
        self._metrics = metrics
        self._pipelines: dict[str, Pipeline] = {}
        self._decoders = ThreadPoolExecutor(settings.decode_threads, thread_name_prefix="decode")

    def load(self) -> None:
        """Puts every model to work as soon as it is ready. Blocks; run it on a thread. Bad models end as failed."""
        for model, executor in self._backend.load():
            if executor is not None:
                self._pipelines[model.name] = Pipeline(model, executor, self._settings, self._metrics)
                model.state = "ready"

    @property
    def loaded(self) -> bool:
        """Whether loading is over: every model is ready or has failed."""
        return all(model.state != "loading" for model in self.repository.models.values())

    @property
    def ready(self) -> bool:
        """Whether loading is over and the default model answers."""
        return self.loaded and self.repository.default in self._pipelines and self._backend.ready

    def stop_loading(self) -> None:
        """Makes `load` return before the next model."""
        self._backend.stop_loading()

    def close(self) -> None:
        """Finishes what is queued and stops the threads. Blocks."""
        self._decoders.shutdown()
        for pipeline in self._pipelines.values():
            pipeline.executor.close()

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
                    image.answer.cancel()  # which it is already if this request was cancelled while it waited for it
                    if image.answer.cancelled():
                        pipeline.executor.withdraw(image.answer)
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
            pipeline.executor.submit(image, image.answer)
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


def _fail(future: Prediction, error: BaseException) -> None:
    if not future.done():
        future.set_exception(error)
