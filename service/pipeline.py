"""The pipeline of one model: bytes of images in, predictions out. Knows no HTTP.

    bytes ── decode pool ──► pixels ─┬─ runner (batches, engine, softmax, top-k) ──► Classified
                                     └─ a PNG of them ──► Shown

Bounded pools of threads decode (Pillow releases the GIL); each lane of a model's engine has a thread of its own. No
thread spins, so the system shares the cores among them. Every image is admitted before it is decoded, and dropped as
soon as its answer would come too late or nobody waits for it any more.
"""

from __future__ import annotations

import asyncio
import functools
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypedDict

import numpy as np

from service.admission import Permit, Room
from service.answers import Classified, Shown
from service.backend import NotDecoded, Pending, Runner
from service.batching import Expired
from service.deadline import Deadline
from service.decoders import Decoders, Outcome
from service.drawing import drawing_bytes, drawn
from service.image_metrics import ImageMetrics
from service.jobs import NOT_COMPUTED, Job, expire, fail, hand_over, report
from service.metrics import Metrics
from service.model_repository import Model
from service.runtime.class_activation import last_layer
from service.runtime.faults import Fault
from service.runtime.graph import Output
from service.runtime.images import encoded
from service.runtime.images.decoding import Decoded, decode
from service.runtime.images.headers import Header, read_header
from service.runtime.images.overlay import picture_size
from service.runtime.images.preview import decode_path, to_png
from service.runtime.images.resizing import Box
from service.settings import Settings
from service.settings_memory import ORDINARY_BYTES
from service.upload_faults import ImageTooLarge

# Copies of a JPEG on its way to an engine that decodes, beside the upload: without its metadata, in the memory shared
# with the engine process, and in that process.
JPEG_COPIES = 3


class _Limits(TypedDict):
    max_pixels: int
    scaled: bool


class Pipeline:
    """A ready model, and the images on their way through it.

    Attributes:
        last_layer: of the network; or why there is none. Opened here: whatever becomes of its file, it stays as it was.
    """

    def __init__(self, model: Model, runner: Runner, decoders: Decoders, settings: Settings, metrics: Metrics) -> None:
        self.room = Room(model.name, runner, decoders, metrics, settings.target_wait_ms / 1000)
        self._runner = runner
        self._decoders = decoders
        self._preprocessing = model.card.preprocessing
        self._pixel_bytes = math.prod(model.card.preprocessing.shape)
        self._output_bytes = {name: 4 * math.prod(shape) for name, shape in model.card.output_shapes.items()}
        self._max_image_bytes = settings.max_image_bytes
        self._limits: _Limits = {"max_pixels": settings.max_pixels, "scaled": settings.scaled_decoding}
        self._counts = ImageMetrics(model.card, metrics)
        self.last_layer = last_layer(model.path, model.card)

    async def classify(
        self,
        permit: Permit,
        images: Sequence[bytes | np.ndarray],
        top_k: int,
        deadline: Deadline,
        outputs: Sequence[Output] = (),
    ) -> list[Classified | Fault]:
        """Classifies each image on its own: a fault takes the place of that image's answer only.

        Args:
            images: files; or pixels as the network sees them, uint8 `(channels, height, width)` of the card.
            outputs: of the graph, to answer with.

        Raises:
            Overloaded, DeadlineMissed, MemoryExhausted, RequestNeedsTooMuchMemory: no image was looked at.
        """
        decodes = self._runner.decodes
        copies = JPEG_COPIES * sum(min(len(data), encoded.MAX_BYTES) for data in images) if decodes else 0
        each = self._pixel_bytes + sum(self._output_bytes[name] for name in outputs)
        try:
            self._admit(permit, len(images), len(images) * each + copies, deadline)
        except Fault as fault:
            self._counts.failed(fault.slug, len(images))
            raise
        jobs = [
            Job(data, top_k, deadline.at, self._runner.pending(), self._compute, number, decodes, outputs=outputs)
            for number, data in enumerate(images)
        ]
        if decodes:
            for job in jobs:
                job.pending.add_done_callback(functools.partial(self._decode_after_all, job, jobs))
        try:
            with self._under_way(jobs, deadline):
                answers = [await self._answer(job, jobs, deadline) for job in jobs]
        except asyncio.CancelledError:  # the client has left
            self._counts.failed("withdrawn", sum(job.pending.cancelled() for job in jobs))
            raise
        for answer in answers:
            if isinstance(answer, Fault):
                self._counts.failed(answer.slug)
            else:
                self._counts.answered(answer.top, answer.seconds)
        return answers

    async def show(self, permit: Permit, image: bytes, deadline: Deadline) -> Shown:
        """Decodes an image as `classify` does, for people to look at. The engine gets nothing.

        With an engine that decodes, pixels of its JPEGs differ slightly: here the processor decodes all of them.

        Raises:
            Fault: the image cannot be decoded, or not now.
        """
        job = await self._prepared(permit, image, self._show, 2 * self._pixel_bytes, deadline)  # the crop and its PNG
        seconds = job.seconds(NOT_COMPUTED)
        del seconds["inference"]
        png, path = job.pending.result()
        return Shown(png, path, seconds)

    async def draw(
        self, permit: Permit, image: bytes, size: tuple[int, int], maps: np.ndarray, box: Box, deadline: Deadline
    ) -> list[bytes]:
        """PNGs of class activation maps `(N, h, w)` over the whole image; see `overlays`.

        Args:
            size: width and height of the upright image.

        Raises:
            Fault: the image cannot be decoded, or not now.
        """
        files: list[bytes] = []

        def begin(job: Job, request: list[Job]) -> None:
            pictures = drawn(job, maps, box, files, self._preprocessing, self._limits["max_pixels"], self._decoders)
            self._decoders.submit_drawing(pictures, len(maps), math.prod(picture_size(*size)))

        deliver = functools.partial(hand_over, files)
        job = await self._prepared(permit, image, deliver, drawing_bytes(size, len(maps)), deadline, begin)
        job.note(time.perf_counter())
        return files

    async def _prepared(
        self,
        permit: Permit,
        image: bytes,
        deliver: Callable[[Job], Outcome],
        size: int,
        deadline: Deadline,
        begin: Callable[[Job, list[Job]], None] | None = None,
    ) -> Job:
        """A job that has its answer: an image that was decoded without the engine.

        Args:
            deliver: answers the job, on a thread.
            size: bytes that it takes besides.
            begin: as of `_under_way`.

        Raises:
            Fault: the image cannot be decoded, or not now.
        """
        self._admit(permit, 1, size, deadline)
        pending = asyncio.get_running_loop().create_future()
        job = Job(image, 0, deadline.at, pending, deliver)
        with self._under_way([job], deadline, begin):
            try:
                await job.pending
            except Exception as error:
                fault = job.fault(error, deadline)
                job.note(time.perf_counter(), problem=fault.slug)
                raise fault from None
        return job

    def _admit(self, permit: Permit, images: int, size: int, deadline: Deadline) -> None:
        """Holds a place in the queue for each image, and `size` bytes of memory.

        Raises:
            Overloaded, DeadlineMissed, MemoryExhausted, RequestNeedsTooMuchMemory
        """
        self.room.check(deadline)
        permit.reserve_bytes(size)
        permit.reserve_images(self.room, images)

    @contextmanager
    def _under_way(
        self, jobs: list[Job], deadline: Deadline, begin: Callable[[Job, list[Job]], None] | None = None
    ) -> Iterator[None]:
        """Sends images on their way; those without an answer at the deadline, or at the end, are withdrawn.

        Args:
            begin: sends one of them on its way; None decodes it.
        """
        too_late = asyncio.get_running_loop().call_later(deadline.left, expire, jobs)
        try:
            for job in jobs:
                (begin or self._begin)(job, jobs)
            yield
        finally:
            too_late.cancel()
            for job in jobs:
                job.by_engine = False  # what comes back now is not decoded any more
                job.pending.cancel()  # withdraws what has not been answered

    def _begin(self, job: Job, request: list[Job]) -> None:
        self._decoders.submit(functools.partial(self._decode, job, request))

    def _decode(self, job: Job, request: list[Job], header: Header | None = None) -> Outcome:
        """On a thread: decodes an image and delivers it, or reports its fault. Hands a large image on to others.

        If the engine can decode it, only its header is read here.

        Args:
            header: of a large image that was handed on.
        """
        if job.pending.done():
            return Outcome.NOTHING
        try:
            if isinstance(job.data, np.ndarray):
                job.decoding = job.decoded = time.perf_counter()
                job.picture = Decoded(job.data, width=job.data.shape[2], height=job.data.shape[1])
                return job.deliver(job)
            if len(job.data) > self._max_image_bytes:
                raise ImageTooLarge(bytes=len(job.data), max_bytes=self._max_image_bytes)
            if header is None:
                header = read_header(job.data, self._preprocessing, **self._limits)
                if job.by_engine and (jpeg := encoded.encoded(job.data, header)):
                    job.decoding = job.decoded = time.perf_counter()
                    job.picture = jpeg
                    return job.deliver(job)
                if header.decode_bytes > ORDINARY_BYTES:
                    work = functools.partial(self._decode, job, request, header)
                    self._decoders.submit_large(work, header.decode_bytes, id(request))
                    return Outcome.HANDED_ON
            job.decoding = time.perf_counter()
            job.picture = decode(job.data, self._preprocessing, **self._limits, header=header)
            job.decoded = time.perf_counter()
            return job.deliver(job)
        except BaseException as error:  # the pool would swallow it
            report(error, job)
            return Outcome.REFUSED

    def _compute(self, job: Job) -> Outcome:
        self._runner.submit(job, job.pending)
        return Outcome.DECODED

    def _show(self, job: Job) -> Outcome:
        assert isinstance(job.picture, Decoded)
        assert isinstance(job.data, bytes)
        shown = to_png(job.picture.pixels), decode_path(job.data, self._preprocessing, **self._limits)
        return hand_over(shown, job)

    def _decode_after_all(self, job: Job, request: list[Job], pending: Pending) -> None:
        """On the event loop, once the engine is done with an image: if it could not decode it, it is decoded here."""
        if pending.cancelled() or not isinstance(pending.exception(), NotDecoded) or not job.by_engine:
            return
        self._counts.not_decoded()
        job.by_engine, job.picture = False, None
        job.pending = self._runner.pending()
        if time.monotonic() < job.deadline:
            self._begin(job, request)
        else:  # the timer has gone off already
            fail(job.pending, Expired())

    async def _answer(self, job: Job, request: list[Job], deadline: Deadline) -> Classified | Fault:
        try:
            pending = job.pending
            try:
                answer, timing = await pending
            except NotDecoded:
                self._decode_after_all(job, request, pending)  # unless its callback has been first
                answer, timing = await job.pending
        except Exception as error:
            fault = job.fault(error, deadline)
            job.note(time.perf_counter(), problem=fault.slug)
            return fault
        assert job.picture is not None
        width, height = job.picture.width, job.picture.height
        return Classified(answer.top, width, height, job.seconds(timing), timing.batch_size, answer.outputs)
