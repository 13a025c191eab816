"""One image on its way through a pipeline, and how its way ends."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from service import request_ids
from service.backend import EngineFailed
from service.batching import BatchTiming, Closed, Expired
from service.deadline import Deadline
from service.decoders import Outcome
from service.errors import ComputationFailed, InternalError, ServerFault, Stopping
from service.metrics import Stage
from service.runtime.engine import Image
from service.runtime.faults import Fault, ImageFault
from service.runtime.graph import Output
from service.runtime.images.decoding import Decoded
from service.runtime.images.encoded import EncodedJpeg
from service.tracing import traces
from service.tracing.traces import NO_MARK, Passage, Trace

log = logging.getLogger(__name__)

NOT_COMPUTED = BatchTiming(queued=0.0, ran=0.0, batch_size=0)


@dataclass(slots=True)
class Job:
    """Created on the event loop, decoded on a thread, then delivered there: as an item of a batch, or as a preview.

    Attributes:
        data: the file; or pixels, uint8 `(channels, height, width)`, as the network sees them.
        outputs: of the graph, to answer with.
        pending: gets the answer. On the event loop.
        deliver: called on the thread with what has been decoded.
        number: of the image, within its request.
        by_engine: whether the engine may decode it.
        decoding, decoded: when its decoding began and ended.
        trace: of its request, if that is traced.
    """

    data: bytes | np.ndarray
    top_k: int
    deadline: float
    pending: asyncio.Future[Any]
    deliver: Callable[[Job], Outcome]
    number: int = 0
    by_engine: bool = False
    request_id: str = field(default_factory=request_ids.current)
    arrived: float = field(default_factory=time.perf_counter)
    outputs: Sequence[Output] = ()
    decoding: float = 0.0
    decoded: float = 0.0
    picture: Decoded | EncodedJpeg | None = None
    trace: Trace | None = field(default_factory=traces.current)

    @property
    def mark(self) -> bytes:
        return self.trace.mark if self.trace else NO_MARK

    @property
    def image(self) -> Image:
        assert self.picture is not None  # the runner is given it afterwards
        return self.picture.pixels if isinstance(self.picture, Decoded) else self.picture

    def seconds(self, timing: BatchTiming) -> dict[Stage, float]:
        """Where its time went, now that it has its answer."""
        ended = time.perf_counter()
        self.note(ended, timing)
        return {
            "decode": self.decoded - self.decoding,
            "queue": (self.decoding - self.arrived) + timing.queued,
            "inference": timing.ran,
            "total": ended - self.arrived,
        }

    def note(self, ended: float, timing: BatchTiming = NOT_COMPUTED, problem: str = "") -> None:
        """Adds its way to the trace of its request, if that is traced.

        Args:
            problem: why it has no answer.
        """
        if self.trace:
            times = self.arrived, self.decoding, self.decoded, ended, timing.started, timing.ran
            passage = Passage(self.number, *times, timing.batch_size, timing.batch, problem)
            self.trace.passages.append(passage)

    def fault(self, error: Exception, deadline: Deadline) -> Fault:
        """What the client is told if this error took the place of the answer."""
        if isinstance(error, ImageFault | ServerFault):
            return error
        if isinstance(error, Closed):
            return Stopping(retry_after=1)
        if isinstance(error, Expired):
            return deadline.missed("the answer takes longer")
        if not isinstance(error, EngineFailed):  # that is logged already
            log.error("an image of %d bytes could not be answered", len(self.data), exc_info=error)
        # Another replica may succeed where the engine or the memory failed. Anything else is a bug.
        return ComputationFailed() if self.picture or isinstance(error, MemoryError) else InternalError()


def end(pending: asyncio.Future[Any], answer: object) -> None:
    """Answers an image that has no answer yet. On the event loop."""
    if not pending.done():
        pending.set_result(answer)


def fail(pending: asyncio.Future[Any], error: BaseException) -> None:
    """As `end`, with an error."""
    if not pending.done():
        pending.set_exception(error)


def hand_over(answer: object, job: Job) -> Outcome:
    """Answers an image from a thread, by what the engine never sees."""
    job.pending.get_loop().call_soon_threadsafe(end, job.pending, answer)
    return Outcome.SHOWN


def report(error: BaseException, job: Job) -> None:
    """As `fail`, from a thread."""
    with suppress(RuntimeError):  # the loop is closed: nobody waits any more
        job.pending.get_loop().call_soon_threadsafe(fail, job.pending, error)


def expire(jobs: Sequence[Job]) -> None:
    """At the deadline: what has no answer yet gets none. Not computed any more, like what is cancelled."""
    for job in jobs:
        fail(job.pending, Expired())
