"""The pipeline of one model: bytes of images in, predictions out. Knows no HTTP.

    bytes ── decode pool ──► pixels ── runner (batches, engine, softmax, top-k) ──► Classified

Bounded pools of threads decode (Pillow releases the GIL); each lane of a model's engine has a thread of its own. No
thread spins, so the system shares the cores among them. Every image is admitted before it is decoded, and dropped as
soon as its answer would come too late or nobody waits for it any more.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import math
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import NamedTuple, TypedDict

import numpy as np

from service import request_ids
from service.admission import Permit, Room
from service.backend import NotDecoded, Pending, Runner
from service.batching import Closed, Expired
from service.deadline import Deadline
from service.decoders import Decoders, Outcome
from service.errors import ComputationFailed, ImageTooLarge, InternalError, ServerFault, Stopping
from service.metrics import MOST_CLASSES, STAGES, Metrics, Stage
from service.model_repository import Model
from service.runtime.engine import Image
from service.runtime.faults import Fault, ImageFault
from service.runtime.images import encoded
from service.runtime.images.decoding import Decoded, decode
from service.runtime.images.encoded import EncodedJpeg
from service.runtime.images.headers import Header, read_header
from service.runtime.scores import TopK
from service.settings import Settings
from service.settings_memory import ORDINARY_BYTES

log = logging.getLogger(__name__)

# Copies of a JPEG on its way to an engine that decodes, beside the upload: without its metadata, in the memory shared
# with the engine process, and in that process.
JPEG_COPIES = 3


class Classified(NamedTuple):
    """The answer to one image.

    Attributes:
        width, height: of the decoded image, upright, in pixels.
        seconds: by stage; `decode` on a core of the pool, `queue` waiting for a decode thread and then for the engine,
            `inference` of the whole batch. The metrics and the Server-Timing header read the same numbers.
        batch_size: images in its batch.
    """

    top: TopK
    width: int
    height: int
    seconds: Mapping[Stage, float]
    batch_size: int


class _Limits(TypedDict):
    max_pixels: int
    scaled: bool


@dataclass(slots=True)
class _Job:
    """One image on its way: created on the event loop, decoded on a thread, then an item of a batch."""

    data: bytes
    top_k: int
    deadline: float
    pending: Pending
    request_id: str = field(default_factory=request_ids.current)
    arrived: float = field(default_factory=time.perf_counter)
    by_engine: bool = False  # whether the engine may decode it
    decoding: float = 0.0  # when it began
    decoded: float = 0.0  # when it ended
    picture: Decoded | EncodedJpeg | None = None

    @property
    def image(self) -> Image:
        assert self.picture is not None  # the runner is given it afterwards
        return self.picture.pixels if isinstance(self.picture, Decoded) else self.picture


class Pipeline:
    """A ready model, and the images on their way through it."""

    def __init__(self, model: Model, runner: Runner, decoders: Decoders, settings: Settings, metrics: Metrics) -> None:
        self.room = Room(model.name, runner, decoders, metrics, settings.target_wait_ms / 1000)
        self._runner = runner
        self._decoders = decoders
        self._preprocessing = model.card.preprocessing
        self._pixel_bytes = math.prod(model.card.preprocessing.shape)
        self._max_image_bytes = settings.max_image_bytes
        self._max_pixels = settings.max_pixels
        self._scaled_decoding = settings.scaled_decoding
        # Looked up once: a label costs as much as counting.
        self._stages = [(stage, metrics.stages.labels(model=model.name, stage=stage)) for stage in STAGES]
        self._ok = metrics.images.labels(model=model.name, outcome="ok")
        self._failed = functools.partial(metrics.images.labels, model.name)
        self._confidence = metrics.confidence.labels(model=model.name)
        self._head = model.card.head
        labels = model.card.labels
        self._thresholds = np.array(self._head.thresholds_of(len(labels)))
        self._predicted = {
            class_id: metrics.predicted.labels(model.name, labels[class_id].name)
            for class_id in (range(len(labels)) if len(labels) <= MOST_CLASSES else ())
        }
        self._not_decoded = metrics.not_decoded.labels(model=model.name)

    async def classify(
        self, permit: Permit, images: Sequence[bytes], top_k: int, deadline: Deadline
    ) -> list[Classified | Fault]:
        """Classifies each image on its own: a fault takes the place of that image's answer only.

        Raises:
            Overloaded, DeadlineMissed, MemoryExhausted: no image was looked at.
        """
        decodes = self._runner.decodes
        try:
            self.room.check(deadline)
            permit.reserve_bytes(len(images) * self._pixel_bytes)
            if decodes:
                permit.reserve_bytes(JPEG_COPIES * sum(min(len(data), encoded.MAX_BYTES) for data in images))
        except ServerFault as fault:
            self._failed(fault.slug).inc(len(images))
            raise
        permit.reserve_images(self.room, len(images))
        jobs = [_Job(data, top_k, deadline.at, self._runner.pending(), by_engine=decodes) for data in images]
        if decodes:
            for job in jobs:
                job.pending.add_done_callback(functools.partial(self._decode_after_all, job, jobs))
        too_late = asyncio.get_running_loop().call_later(deadline.left, _expire, jobs)
        try:
            for job in jobs:
                self._decoders.submit(functools.partial(self._decode, job, jobs))
            answers = [await self._answer(job, jobs, deadline) for job in jobs]
        except asyncio.CancelledError:  # the client has left
            self._failed("withdrawn").inc(sum(job.pending.cancelled() or not job.pending.done() for job in jobs))
            raise
        finally:
            too_late.cancel()
            for job in jobs:
                job.by_engine = False  # what comes back now is not decoded any more
                job.pending.cancel()  # withdraws what has not been answered
        for answer in answers:
            self._observe(answer)
        return answers

    def _decode(self, job: _Job, request: list[_Job], header: Header | None = None) -> Outcome:
        """On a thread: decodes an image and submits it, or reports its fault. Hands a large image on to others.

        If the engine can decode it, only its header is read here.

        Args:
            header: of a large image that was handed on.
        """
        if job.pending.done():
            return Outcome.NOTHING
        limits: _Limits = {"max_pixels": self._max_pixels, "scaled": self._scaled_decoding}
        try:
            if len(job.data) > self._max_image_bytes:
                raise ImageTooLarge(bytes=len(job.data), max_bytes=self._max_image_bytes)
            if header is None:
                header = read_header(job.data, self._preprocessing, **limits)
                if job.by_engine and (jpeg := encoded.encoded(job.data, header)):
                    job.decoding = job.decoded = time.perf_counter()
                    job.picture = jpeg
                    self._runner.submit(job, job.pending)
                    return Outcome.DECODED
                if header.decode_bytes > ORDINARY_BYTES:
                    work = functools.partial(self._decode, job, request, header)
                    self._decoders.submit_large(work, header.decode_bytes, id(request))
                    return Outcome.HANDED_ON
            job.decoding = time.perf_counter()
            job.picture = decode(job.data, self._preprocessing, **limits, header=header)
            job.decoded = time.perf_counter()
            self._runner.submit(job, job.pending)
            return Outcome.DECODED
        except BaseException as error:  # the pool would swallow it
            with suppress(RuntimeError):  # the loop is closed: nobody waits any more
                job.pending.get_loop().call_soon_threadsafe(_fail, job.pending, error)
            return Outcome.REFUSED

    def _decode_after_all(self, job: _Job, request: list[_Job], pending: Pending) -> None:
        """On the event loop, once the engine is done with an image: if it could not decode it, it is decoded here."""
        if pending.cancelled() or not isinstance(pending.exception(), NotDecoded) or not job.by_engine:
            return
        self._not_decoded.inc()
        job.by_engine, job.picture = False, None
        job.pending = self._runner.pending()
        if time.monotonic() < job.deadline:
            self._decoders.submit(functools.partial(self._decode, job, request))
        else:  # the timer has gone off already
            _fail(job.pending, Expired())

    async def _answer(self, job: _Job, request: list[_Job], deadline: Deadline) -> Classified | Fault:
        try:
            pending = job.pending
            try:
                top, timing = await pending
            except NotDecoded:
                self._decode_after_all(job, request, pending)  # unless its callback has been first
                top, timing = await job.pending
        except (ImageFault, ServerFault) as fault:
            return fault
        except Closed:
            return Stopping(retry_after=1)
        except Expired:
            return deadline.missed("the answer takes longer")
        except Exception as error:
            log.exception("an image of %d bytes could not be classified", len(job.data))
            # Another replica may succeed where the engine or the memory failed. Anything else is a bug.
            return ComputationFailed() if job.picture or isinstance(error, MemoryError) else InternalError()
        assert job.picture is not None
        seconds: dict[Stage, float] = {
            "decode": job.decoded - job.decoding,
            "queue": (job.decoding - job.arrived) + timing.queued,
            "inference": timing.ran,
            "total": time.perf_counter() - job.arrived,
        }
        return Classified(top, job.picture.width, job.picture.height, seconds, timing.batch_size)

    def _observe(self, answer: Classified | Fault) -> None:
        """Counts an answered image."""
        if isinstance(answer, Fault):
            self._failed(answer.slug).inc()
            return
        self._ok.inc()
        self._confidence.observe(float(answer.top.probabilities[0]))
        for class_id in self._answered(answer.top) if self._predicted else ():
            self._predicted[class_id].inc()
        for stage, histogram in self._stages:
            histogram.observe(answer.seconds[stage])

    def _answered(self, top: TopK) -> list[int]:
        """The classes that the model answers with, whatever part of its answer the request asks for."""
        if self._head.multi_label:
            present = top.probabilities >= self._thresholds[top.class_ids]
            return [int(class_id) for class_id in top.class_ids[present]]
        if self._head.rejection and top.probabilities[0] < self._head.rejection.threshold:
            return []
        return [int(top.class_ids[0])]


def _fail(pending: Pending, error: BaseException) -> None:
    if not pending.done():
        pending.set_exception(error)


def _expire(jobs: Sequence[_Job]) -> None:
    """At the deadline: what has no answer yet gets none. Not computed any more, like what is cancelled."""
    for job in jobs:
        _fail(job.pending, Expired())
