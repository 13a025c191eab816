"""Where models are computed: the protocols of `local_backend` (this process) and `workers` (another one)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Hashable, Iterable, Mapping, Sequence
from typing import NamedTuple, Protocol

import numpy as np

from service.batching import BatchTiming
from service.model_repository import Model, Repository
from service.published import Listing
from service.runtime.engine import EngineInfo, Image
from service.runtime.graph import Output
from service.runtime.scores import TopK


class Answer(NamedTuple):
    """What was computed for one image.

    Attributes:
        outputs: those of the graph that were asked for, float32, as in `ModelCard.output_shapes`.
    """

    top: TopK
    outputs: Mapping[Output, np.ndarray] = {}


# The answer to one image, and how long its batch took.
Pending = asyncio.Future[tuple[Answer, BatchTiming]]


class BatchItem(Protocol):
    """What a batch is made of."""

    @property
    def image(self) -> Image:
        """uint8 `(channels, height, width)`; or a JPEG, if the runner decodes."""

    @property
    def top_k(self) -> int:
        """How many classes to answer with."""

    @property
    def outputs(self) -> Sequence[Output]:
        """Which outputs of the graph to answer with, besides."""

    @property
    def deadline(self) -> float:
        """Until when the answer is of use, on the clock of `time.monotonic`."""

    @property
    def request_id(self) -> str:
        """The request that it belongs to, for the log; empty for none."""

    @property
    def mark(self) -> bytes:
        """Of the request's span, if it is traced; else `traces.NO_MARK`."""


class NotDecoded(Exception):
    """The engine could not decode a JPEG: the processor may."""


class EngineFailed(Exception):
    """The engine could not compute an image; the log of its process says why."""


class Runner(Protocol):
    """A ready model, wherever it is computed."""

    @property
    def decodes(self) -> bool:
        """Whether it takes JPEGs, too."""

    @property
    def unanswered(self) -> int:
        """Images that were submitted, here or in a sibling process, and not answered yet."""

    @property
    def per_second(self) -> float:
        """Images per second that leave while more of them wait; 0 if nothing is known yet."""

    def pending(self) -> Pending:
        """A future for one image; cancelling it withdraws the image. On the event loop."""

    def submit(self, item: BatchItem, pending: Pending) -> None:
        """Queues an image; may be called from any thread.

        If computing it fails, `pending` gets the exception; `batching.Expired` if its deadline came first, NotDecoded
        if it is a JPEG that the engine cannot decode.
        """


class Ready(NamedTuple):
    """A model has been loaded."""

    info: EngineInfo
    runner: Runner


class Failed(NamedTuple):
    """A model cannot be loaded."""

    reason: str


class Work(NamedTuple):
    """What a part of the program is busy with, for the watchdog.

    Attributes:
        part: its name, for people.
        piece: the piece of work; while it stays the same, there is no progress. None while there is nothing to do.
        lasts: whether a piece may take as long as the longest one so far, and the timeout on top.
        owner: tells parts of the same name apart.
    """

    part: str
    piece: Hashable | None
    lasts: bool = False
    owner: int = 0


class Backend(Protocol):
    """Loads models and computes them."""

    def load(self, repository: Repository) -> AsyncIterator[tuple[Model, Ready | Failed]]:
        """Yields every version that shall answer, as soon as it is ready or has failed.

        Before the next one is yielded, the repository has to know of it: the next one may take its place. Cancelling
        stops before the next one.
        """

    def work(self) -> Iterable[Work]:
        """What must make progress for images to be answered. From any thread."""

    def changes(self, repository: Repository) -> AsyncIterator[tuple[Model, Ready | Failed] | Listing]:
        """Yields what changes after `load`: versions, as `load` does; and the listing, when the repository has it."""

    def reload(self) -> None:
        """Looks for changes now, and tries versions again that have failed. From any thread."""

    async def unload(self, model: Model) -> None:
        """Lets go of a model that no request uses any more."""

    async def close(self) -> None:
        """Finishes what is queued, then lets go of threads, sockets and models.

        It does not wait for models that are being loaded: their threads end by themselves.
        """
