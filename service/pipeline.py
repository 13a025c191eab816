"""The pipeline of one model: bytes of images in, predictions out. Knows no HTTP.

    bytes ── decode pool ──► pixels ── runner (batches, engine, softmax, top-k) ──► Classified

A bounded pool of threads decodes (Pillow releases the GIL); each lane of a model's engine has a thread of its own. No
thread spins, so the system shares the cores among them. Every image is admitted before it is decoded and counted until
it is answered, which bounds the images in the service.
"""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from service.admission import Permit, Room
from service.backend import Pending, Runner
from service.errors import ImageTooLarge, InternalError
from service.metrics import STAGES, Metrics, Stage
from service.model_repository import Model
from service.runtime.faults import Fault, ImageFault
from service.runtime.images.decoding import Decoded, decode
from service.runtime.scores import TopK
from service.settings import Settings

log = logging.getLogger(__name__)


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


@dataclass(slots=True)
class _Job:
    """One image on its way: created on the event loop, decoded on the pool, then an item of a batch."""

    data: bytes
    top_k: int
    pending: Pending
    arrived: float = field(default_factory=time.perf_counter)
    decoding: float = 0.0  # when it began
    decoded: float = 0.0  # when it ended
    image: Decoded | None = None

    @property
    def pixels(self) -> np.ndarray:
        assert self.image is not None  # the runner is given decoded images only
        return self.image.pixels


class Pipeline:
    """A ready model, and the images on their way through it."""

    def __init__(
        self, model: Model, runner: Runner, decoders: ThreadPoolExecutor, settings: Settings, metrics: Metrics
    ) -> None:
        """
        Args:
            decoders: the decode pool that all models share.
        """
        self.room = Room(model.name, runner, metrics, settings.max_queue)
        self._runner = runner
        self._decoders = decoders
        self._preprocessing = model.card.preprocessing
        self._max_image_bytes = settings.max_image_bytes
        self._max_pixels = settings.max_pixels
        self._scaled_decoding = settings.scaled_decoding
        # Looked up once: a label costs as much as counting.
        self._stages = [(stage, metrics.stages.labels(model=model.name, stage=stage)) for stage in STAGES]
        self._ok = metrics.images.labels(model=model.name, outcome="ok")
        self._failed = functools.partial(metrics.images.labels, model.name)

    async def classify(self, permit: Permit, images: Sequence[bytes], top_k: int) -> list[Classified | Fault]:
        """Classifies each image on its own: a fault takes the place of that image's answer only.

        Raises:
            Overloaded: no image was looked at.
        """
        permit.reserve_images(self.room, len(images))
        jobs = [_Job(data, top_k, self._runner.pending()) for data in images]
        try:
            for job in jobs:
                self._decoders.submit(self._decode, job)
            answers = [await self._answer(job) for job in jobs]
        finally:
            for job in jobs:
                job.pending.cancel()  # withdraws what has not been answered
        for answer in answers:
            self._observe(answer)
        return answers

    def _decode(self, job: _Job) -> None:
        """On the pool: decodes an image and submits it, or reports its fault."""
        if job.pending.cancelled():
            return
        job.decoding = time.perf_counter()
        try:
            if len(job.data) > self._max_image_bytes:
                raise ImageTooLarge(bytes=len(job.data), max_bytes=self._max_image_bytes)
            job.image = decode(job.data, self._preprocessing, max_pixels=self._max_pixels, scaled=self._scaled_decoding)
            job.decoded = time.perf_counter()
            self._runner.submit(job, job.pending)
        except BaseException as error:  # the pool would swallow it
            with suppress(RuntimeError):  # the loop is closed: nobody waits any more
                job.pending.get_loop().call_soon_threadsafe(_fail, job.pending, error)

    async def _answer(self, job: _Job) -> Classified | Fault:
        try:
            top, timing = await job.pending
        except ImageFault as fault:
            return fault
        except Exception:
            log.exception("an image of %d bytes could not be classified", len(job.data))
            return InternalError()
        assert job.image is not None
        seconds: dict[Stage, float] = {
            "decode": job.decoded - job.decoding,
            "queue": (job.decoding - job.arrived) + timing.queued,
            "inference": timing.ran,
            "total": time.perf_counter() - job.arrived,
        }
        return Classified(top, job.image.width, job.image.height, seconds, timing.batch_size)

    def _observe(self, answer: Classified | Fault) -> None:
        """Counts an answered image."""
        if isinstance(answer, Fault):
            self._failed(answer.slug).inc()
            return
        self._ok.inc()
        for stage, histogram in self._stages:
            histogram.observe(answer.seconds[stage])


def _fail(pending: Pending, error: BaseException) -> None:
    if not pending.done():
        pending.set_exception(error)
