"""One image on its way through a pipeline, and how its way ends."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from service import request_ids
from service.batching import Closed, Expired
from service.deadline import Deadline
from service.decoders import Outcome
from service.errors import ComputationFailed, InternalError, ServerFault, Stopping
from service.runtime.engine import Image
from service.runtime.faults import Fault, ImageFault
from service.runtime.graph import Output
from service.runtime.images.decoding import Decoded
from service.runtime.images.encoded import EncodedJpeg

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Job:
    """Created on the event loop, decoded on a thread, then delivered there: as an item of a batch, or as a preview.

    Attributes:
        data: the file; or pixels, uint8 `(channels, height, width)`, as the network sees them.
        outputs: of the graph, to answer with.
        pending: gets the answer. On the event loop.
        deliver: called on the thread with what has been decoded.
        by_engine: whether the engine may decode it.
        as_file: whether it is delivered as it came, without a picture.
        decoding, decoded: when its decoding began and ended.
    """

    data: bytes | np.ndarray
    top_k: int
    deadline: float
    pending: asyncio.Future[Any]
    deliver: Callable[[Job], Outcome]
    request_id: str = field(default_factory=request_ids.current)
    arrived: float = field(default_factory=time.perf_counter)
    by_engine: bool = False
    as_file: bool = False
    outputs: Sequence[Output] = ()
    decoding: float = 0.0
    decoded: float = 0.0
    picture: Decoded | EncodedJpeg | None = None

    @property
    def image(self) -> Image:
        assert self.picture is not None  # the runner is given it afterwards
        return self.picture.pixels if isinstance(self.picture, Decoded) else self.picture

    def fault(self, error: Exception, deadline: Deadline) -> Fault:
        """What the client is told if this error took the place of the answer."""
        if isinstance(error, ImageFault | ServerFault):
            return error
        if isinstance(error, Closed):
            return Stopping(retry_after=1)
        if isinstance(error, Expired):
            return deadline.missed("the answer takes longer")
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


def expire(jobs: Sequence[Job]) -> None:
    """At the deadline: what has no answer yet gets none. Not computed any more, like what is cancelled."""
    for job in jobs:
        fail(job.pending, Expired())
